"""The pages of a PDF, read in a child process that may run out of memory or time without harm to this one."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from stages.lib.errors import UserError
from stages.lib.pdf_qa import pdf_child
from stages.lib.schema.data import PdfLimits

REPOSITORY = Path(__file__).parents[3]
RUNNING_SHARE = 0.05
"""A line at the top or bottom of more pages than this is a header or a footer."""
RUNNING_LEAST = 3
"""Pages on which it must stand at least: in a short document 5 % is less than one page."""
ENDED_ITSELF = {-signal.SIGTRAP, -signal.SIGILL, -signal.SIGABRT}
TOLD = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONHOME", "PYTHONUTF8", "TMPDIR", "VIRTUAL_ENV")
"""Variables that a child gets, which opens what a stranger made: no key and no token is among them."""
EDGE = 2
"""Lines from the top and from the bottom that are looked at."""


class PdfRefused(UserError):
    """A PDF that can't be read. `reason` is its code: empty, not_a_pdf, truncated, encrypted, damaged, too_big,
    too_many_pages, memory_limit, time_limit, text_limit or crashed."""

    def __init__(self, path: Path, reason: str, detail: str) -> None:
        super().__init__(f"{path}: {reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass
class Page:
    """One page: its number from 1, its text without headers and footers, which library read it, what is wrong."""

    page: int
    text: str
    via: str
    problems: list[str]
    tables: list[list[list[str]]] = field(default_factory=list)


def read_pdf(path: Path, limits: PdfLimits) -> list[Page]:
    """All pages of a PDF. Raises PdfRefused with its reason."""
    refuse_at_a_glance(path, limits)
    command = [sys.executable, "-m", pdf_child.__name__, str(path.resolve())]
    numbers = [str(limits.memory_mib), str(limits.seconds), str(limits.pages)]
    environment = {name: os.environ[name] for name in TOLD if name in os.environ}
    environment |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run([*command, *numbers], capture_output=True, timeout=limits.seconds * 2, env=environment)
    except subprocess.TimeoutExpired:
        raise PdfRefused(path, "time_limit", f"took more than {limits.seconds * 2} s") from None
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines() if line.endswith(b"}")]
    last = lines.pop() if lines and "page" not in lines[-1] else {}
    if "refused" in last:
        raise PdfRefused(path, last["refused"], last["detail"])
    if "done" not in last:
        raise PdfRefused(path, *cause_of_death(done, limits))
    return without_continued_tables(without_running_lines([Page(**line) for line in lines]))


def refuse_at_a_glance(path: Path, limits: PdfLimits) -> None:
    """Raise PdfRefused for what the first and last bytes tell."""
    size = path.stat().st_size
    if size == 0:
        raise PdfRefused(path, "empty", "has no bytes")
    if size > limits.bytes:
        raise PdfRefused(path, "too_big", f"{size} bytes, at most {limits.bytes}")
    with path.open("rb") as file:
        head = file.read(1024)
        file.seek(max(0, size - 4096))
        tail = file.read()
    if b"%PDF-" not in head:
        looks = "HTML" if re.search(rb"<!doctype html|<html", head, re.IGNORECASE) else f"{head[:8]!r}"
        raise PdfRefused(path, "not_a_pdf", f"begins with {looks}, needed %PDF-; a download page saved as .pdf?")
    if b"%%EOF" not in tail:
        raise PdfRefused(path, "truncated", "has no %%EOF at its end; fetch it again")


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
        lines = [line for line in page.text.split("\n") if line.strip()]
        counts.update({masked(line, page.page) for line in lines[:EDGE] + lines[-EDGE:]})
    least = max(RUNNING_LEAST, RUNNING_SHARE * len(pages))
    running = {line for line, count in counts.items() if count >= least}
    for page in pages:
        lines = page.text.split("\n")
        for edge in (0, -1):
            for _ in range(EDGE):
                while lines and not lines[edge].strip():
                    lines.pop(edge)
                if lines and masked(lines[edge], page.page) in running:
                    lines.pop(edge)
        page.text = "\n".join(lines)
    return pages


def without_continued_tables(pages: list[Page]) -> list[Page]:
    """Take away, and note as the problem table_continued, a table that goes on from the page before without a header.

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
