"""The pages of a PDF, read in a child process that may run out of memory or time without harm to this one."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from stages.lib.every_stage.errors import UserError
from stages.lib.hardware import usable_cores
from stages.lib.pdf_qa import pdf_child
from stages.lib.pdf_qa.text_lines import TextLine, plain_lines
from stages.lib.schema.data import PdfLimits

REPOSITORY = Path(__file__).parents[3]
RUNNING_SHARE = 0.05
"""A line at the top or bottom of more pages than this is a header or a footer."""
RUNNING_LEAST = 3
"""Pages on which it must stand at least: in a short document 5 % is less than one page."""
STAMPED_SHARE = 0.5
"""A line at the same place on more pages than this is a stamp or a watermark, wherever it stands."""
BAND_SHARE = 0.3
BAND_ALWAYS = 0.9
"""Share of the pages whose outermost line stands at that height on which it must be apart."""
BAND_GAP = 1.4
"""Times the usual distance between a page's lines that a header or footer is apart from the text."""
SAME_LINE = 4
"""Points within which two heights are one line's: fonts beside each other stand differently high."""
ENDED_ITSELF = {-signal.SIGTRAP, -signal.SIGILL, -signal.SIGABRT}
TOLD = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONHOME", "PYTHONUTF8", "TMPDIR", "VIRTUAL_ENV")
"""Variables that a child gets, which opens what a stranger made: no key and no token is among them."""
MOST_CHILDREN = 4
"""PDFs that are read at once: each may take `limits.memory_mib`."""
EDGE = 2
"""Lines from the top and from the bottom that are looked at."""


class PdfRefused(UserError):
    """A PDF that can't be read. `reason` is its code: unreadable, empty, not_a_pdf, truncated, encrypted, damaged,
    too_big, too_many_pages, memory_limit, time_limit, text_limit or crashed."""

    def __init__(self, path: Path, reason: str, detail: str) -> None:
        super().__init__(f"{path}: {reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass
class Page:
    """One page: its number from 1, its text without headers and footers, which library read it, what is wrong.

    `lines` are the text's, with their places where pdfium read them. `boxes` are the tables' (left, bottom, right,
    top), in points from the lower left corner; `spans` are their cells that cover several rows or columns (top, left,
    bottom, right). A cell holds its lines.
    """

    page: int
    text: str
    via: str
    problems: list[str]
    tables: list[list[list[str]]] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    spans: list[list[list[int]]] = field(default_factory=list)
    lines: list[TextLine] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lines = self.lines or plain_lines(self.text)

    def keep(self, lines: list[TextLine]) -> None:
        """Leave these lines alone."""
        self.lines = lines
        self.text = "\n".join(line.text.rstrip() for line in lines)


def read_pdf(path: Path, limits: PdfLimits) -> list[Page]:
    """All pages of a PDF. Raises PdfRefused with its reason."""
    refuse_at_a_glance(path, limits)
    done = opened_by_child(pdf_child.__name__, path, limits, str(limits.pages))
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines() if line.endswith(b"}")]
    last = lines.pop() if lines and "page" not in lines[-1] else {}
    if last.get("refused") == "damaged" and ends_early(path):
        raise PdfRefused(path, "truncated", f"has no %%EOF at its end ({last['detail']}); fetch it again")
    if "refused" in last:
        raise PdfRefused(path, last["refused"], last["detail"])
    if "done" not in last:
        raise PdfRefused(path, *cause_of_death(done, limits))
    pages = [Page(**(line | {"lines": [TextLine(**place) for place in line["lines"]]})) for line in lines]
    return without_continued_tables(without_running_lines(pages))


def read_ahead(paths: list[Path], limits: PdfLimits) -> Iterator[tuple[Path, Callable[[], list[Page]]]]:
    """Yield each PDF, in order, with what returns its pages or raises PdfRefused as `read_pdf` does.

    The next ones are read meanwhile, a child for each core, so that a folder of PDFs takes a part of the time; no more
    of them, so that the pages of a few are held at once.
    """
    left = iter(paths)
    children = min(MOST_CHILDREN, usable_cores())
    pool = ThreadPoolExecutor(children)
    try:
        waiting = deque((path, pool.submit(read_pdf, path, limits)) for path in islice(left, children))
        while waiting:
            path, reading = waiting.popleft()
            waiting.extend((following, pool.submit(read_pdf, following, limits)) for following in islice(left, 1))
            yield path, reading.result
    finally:
        pool.shutdown(cancel_futures=True)


def opened_by_child(module: str, path: Path, limits: PdfLimits, *more: str) -> subprocess.CompletedProcess[bytes]:
    """What a module says of a PDF in a process of its own, which knows no key and keeps to `limits`.

    The module is given the path, MiB of memory, seconds, and `more`. Raises PdfRefused if it takes too long.
    """
    command = [sys.executable, "-m", module, str(path.resolve()), str(limits.memory_mib), str(limits.seconds), *more]
    environment = {name: os.environ[name] for name in TOLD if name in os.environ}
    environment |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        return subprocess.run(command, capture_output=True, timeout=limits.seconds * 2, env=environment)
    except subprocess.TimeoutExpired:
        raise PdfRefused(path, "time_limit", f"took more than {limits.seconds * 2} s") from None


def refuse_at_a_glance(path: Path, limits: PdfLimits) -> None:
    """Raise PdfRefused for what the file system and the first bytes tell."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise PdfRefused(
            path, "unreadable", f"{error.strerror}; check the file, its link and its permissions"
        ) from None
    if size == 0:
        raise PdfRefused(path, "empty", "has no bytes")
    if size > limits.bytes:
        raise PdfRefused(path, "too_big", f"{size} bytes, at most {limits.bytes}")
    if b"%PDF-" not in head:
        looks = "HTML" if re.search(rb"<!doctype html|<html", head, re.IGNORECASE) else f"{head[:8]!r}"
        raise PdfRefused(path, "not_a_pdf", f"begins with {looks}, needed %PDF-; a download page saved as .pdf?")


def ends_early(path: Path) -> bool:
    """Whether a PDF has no %%EOF anywhere near its end. pdfium may read it all the same, perhaps not all of it."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2**20))
        return b"%%EOF" not in file.read()


def cause_of_death(done: subprocess.CompletedProcess[bytes], limits: PdfLimits) -> tuple[str, str]:
    """Reason and detail for a child that ended without a word."""
    last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
    if done.returncode == -signal.SIGXCPU:
        return "time_limit", f"used more than {limits.seconds} s of processor time"
    if "MemoryError" in last[0] or "memory" in last[0].lower() or done.returncode in ENDED_ITSELF:
        # pdfium does so when it gets no memory
        return "memory_limit", f"needs more than {limits.memory_mib} MiB"
    return "crashed", f"exit status {done.returncode}: {last[0]}"


def without_running_lines(pages: list[Page]) -> list[Page]:
    """Remove the lines that recur at the top or bottom of pages, page numbers aside."""
    counts: Counter[str] = Counter()
    for page in pages:
        counts.update({masked(page.lines[number].text, page.page) for number in edges(page)})
    least = max(RUNNING_LEAST, RUNNING_SHARE * len(pages))
    running = {line for line, count in counts.items() if count >= least}
    above_and_below = bands(pages)
    stamped = Counter(stamp for page in pages for stamp in {(line.text.strip(), round(line.y0)) for line in page.lines})
    often = max(RUNNING_LEAST, STAMPED_SHARE * len(pages))
    for page in pages:
        gone = {number for number in edges(page) if masked(page.lines[number].text, page.page) in running}
        gone |= {number for number, line in enumerate(page.lines)
                 if line.size and (stamped[line.text.strip(), round(line.y0)] >= often
                                   or {round(line.y0) + off for off in (-1, 0, 1)} & above_and_below)}  # fmt: skip
        gone -= {number for number in gone if any(page.lines[number].within(box) for box in page.boxes)}
        page.keep([line for number, line in enumerate(page.lines) if number not in gone])
    return pages


def bands(pages: list[Page]) -> set[int]:
    """Heights at which pages have a line apart from their text: headers and footers that name the section."""
    counts: Counter[int] = Counter()
    edges_at: Counter[int] = Counter()
    for page in pages:
        heights = sorted({round(line.y0) for line in page.lines if line.size})
        if len(heights) < 4:
            continue
        steps = sorted(high - low for low, high in pairwise(heights) if high - low > SAME_LINE)
        usual = steps[len(steps) // 2] if steps else 0
        for edge, next_one in ((heights[0], heights[1]), (heights[-1], heights[-2])):
            edges_at[edge] += 1
            counts[edge] += abs(edge - next_one) > BAND_GAP * usual
    least = max(RUNNING_LEAST, BAND_SHARE * len(pages))
    return {height for height, count in counts.items() if count >= max(least, BAND_ALWAYS * edges_at[height])}


def edges(page: Page) -> set[int]:
    """Numbers of the lines at a page's edges: first and last as read, and the highest and lowest on the page."""
    said = [number for number, line in enumerate(page.lines) if line.text.strip()]
    by_place = sorted((number for number in said if page.lines[number].size), key=lambda n: page.lines[n].y0)
    return {*said[:EDGE], *said[-EDGE:], *by_place[:EDGE], *by_place[-EDGE:]}


def without_continued_tables(pages: list[Page]) -> list[Page]:
    """Take away, and note as the problem table_continued, a table that continues the page before without a header.

    Its first row would be read as the header. It goes on if it begins the page, the table before ended its page, and
    both have as many columns.
    """
    for before, page in pairwise(pages):
        if not before.tables or not page.tables:
            continue
        above, below = before.tables[-1], page.tables[0]
        touching = squeezed(before.text).endswith(squeezed(above[-1][-1])) and squeezed(page.text).startswith(
            squeezed(below[0][0])
        )
        if touching and len(above[0]) == len(below[0]) and above[0] != below[0]:
            page.tables.pop(0)
            page.boxes[:1], page.spans[:1] = [], []
            page.problems.append("table_continued")
    return pages


def squeezed(text: str) -> str:
    """Text without spaces, which fall anywhere in a cell that is printed on two lines."""
    return "".join(text.split())


def masked(line: str, page: int) -> str:
    """A line with its numbers as distances from the page's: page numbers become equal, rows of a table don't."""
    plain = " ".join(line.split())
    if re.fullmatch("[ivxlc]+", plain):
        return "roman"
    return re.sub(r"\d+", lambda found: f"<{int(found.group()[:9]) - page}>", plain)
