"""The process that opens a stranger's PDF: it limits itself first, writes one JSON line a page, and may die.

{"page": 3, "text": "1. 찾아오시는 길\\n…", "via": "pdfium", "problems": [], "tables": [[["기관", …], …]], …}
Its last line says how it ended: {"done": 10} or {"refused": "encrypted", "detail": "…"}.
"""

from __future__ import annotations

import json
import resource
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from stages.lib.pdf_qa.page_gate import UNUSABLE, page_problems
from stages.lib.pdf_qa.text_lines import lines_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pdfplumber.table import Table
    from pypdfium2 import PdfObject, PdfPage

PASSWORD_NEEDED = 4  # FPDF_ERR_PASSWORD
DEEPEST_FORM = 4
"""Forms within forms of a page that are looked into; pages printed on a sheet are two deep."""
LONG = 6
"""Points that a drawn line has at least."""
NEAR = 3
"""Points within which lines meet, or are the two edges of one."""
MEETS_AS_FRAME = 2
"""Lines that each side of a frame meets; a line of a table meets more."""
FEWEST_RULES = 2
"""Rules that cross the line between the columns of a table without lines around it."""
MOST_LINES = 600
"""Drawn lines of a page that are looked at; where there are more, a table among them is looked for anyway."""
TEXT_LIMIT = 2**20
"""Characters of one page; a real page has a few thousand."""
Lines = set[tuple[int, int, int]]
"""Place, from, to, in points."""


def main(path: str, memory_mib: int, seconds: int, max_pages: int) -> None:
    """Write the pages of a PDF to standard output."""
    limit_itself(memory_mib, seconds)
    try:
        say(extract(path, max_pages))
    except MemoryError:
        say({"refused": "memory_limit", "detail": f"needs more than {memory_mib} MiB"})


def limit_itself(memory_mib: int, seconds: int) -> None:
    """Take no more memory (MiB of address space) and processor time than this, and write to no file."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes to a pipe and to no file


def extract(path: str, max_pages: int) -> dict[str, Any]:
    """Write page by page; return the last line."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if error.err_code == PASSWORD_NEEDED:
            return {"refused": "encrypted", "detail": "needs a password"}
        return {"refused": "damaged", "detail": str(error)}
    if len(document) > max_pages:
        return {"refused": "too_many_pages", "detail": f"{len(document)} pages, at most {max_pages}"}
    if len(document) == 0:
        return {"refused": "damaged", "detail": "no pages"}
    for index in range(len(document)):
        page = document[index]
        textpage = page.get_textpage()
        if (count := textpage.count_chars()) > TEXT_LIMIT:
            detail = f"page {index + 1} has {count} characters, at most {TEXT_LIMIT}"
            return {"refused": "text_limit", "detail": detail}
        lines = lines_of(textpage)
        text = "\n".join(line.text.rstrip() for line in lines)
        across, down = drawn_lines(page)
        textpage.close()
        page.close()
        problems, via = page_problems(text), "pdfium"
        if UNUSABLE & set(problems):
            other = clean(text_by_pypdf(path, index))
            if not UNUSABLE & set(page_problems(other)):
                text, problems, via, lines = other, page_problems(other), "pypdf", []
        usable = not UNUSABLE & set(problems)
        sides = open_sides(across, down)
        found = ruled_tables(path, index, sides) if usable and (sides or may_hold_a_table(across, down)) else {}
        say({"page": index + 1, "text": text, "via": via, "problems": problems,
             "lines": [vars(line) for line in lines], **found})  # fmt: skip
    return {"done": len(document)}


def drawn_lines(page: PdfPage) -> tuple[Lines, Lines]:
    """The lines drawn on a page: those across (y, from x, to x) and those down (x, from y, to y).

    Where there are very many, as in a drawing, the rest is left out.
    """
    import pypdfium2

    across: Lines = set()
    down: Lines = set()
    for path in page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_PATH], max_depth=DEEPEST_FORM):
        left, bottom, right, top = map(round, bounds(path))
        if right - left >= LONG:
            across |= {(bottom, left, right), (top, left, right)}
        if top - bottom >= LONG:
            down |= {(left, bottom, top), (right, bottom, top)}
        if len(across) > MOST_LINES or len(down) > MOST_LINES:
            break
    return across, down


def bounds(item: PdfObject) -> tuple[float, float, float, float]:
    """A drawn thing's box on its page; within forms pdfium says where it is in the innermost."""
    box, form = item.get_bounds(), item.container
    while form is not None:
        box, form = form.get_matrix().on_rect(*box), form.container
    return box


def may_hold_a_table(across: Lines, down: Lines) -> bool:
    """Whether lines cross as those of two rows and two columns do; pdfplumber, which is slow, isn't asked about other
    pages: frames, rules under headings and boxes around links are on many."""
    if len(across) > MOST_LINES or len(down) > MOST_LINES:
        return True
    rows, columns = end_to_end(across), end_to_end(down)
    return any(meets(line, columns) > MEETS_AS_FRAME for line in rows) and any(
        meets(line, rows) > MEETS_AS_FRAME for line in columns
    )


def open_sides(across: Lines, down: Lines) -> list[list[int]]:
    """The boxes (left, bottom, right, top) of tables that are ruled between rows and columns but not around them.

    A line down stands between two columns if rules that all begin and end at the same places cross it, and no line down
    stands where they begin.
    """
    if len(across) > MOST_LINES or len(down) > MOST_LINES:
        return []
    rows, columns = end_to_end(across), sorted(end_to_end(down))
    boxes: dict[tuple[int, int, int, int], None] = {}
    for place, bottom, top in columns:
        rules = [rule for rule in rows if bottom - NEAR <= rule[0] <= top + NEAR
                 and rule[1] < place - LONG and rule[2] > place + LONG]  # fmt: skip
        if len(rules) < FEWEST_RULES:
            continue
        left, right = min(rule[1] for rule in rules), max(rule[2] for rule in rules)
        same = all(rule[1] - left <= NEAR and right - rule[2] <= NEAR for rule in rules)
        closed = any(abs(other - side) <= NEAR and low < top and high > bottom
                     for other, low, high in columns for side in (left, right))  # fmt: skip
        if same and not closed:
            boxes[left, bottom, right, top] = None
    ends = {bottom for _, bottom, _ in columns} - {y + off for y, _, _ in rows for off in range(-NEAR, NEAR + 1)}
    for end in ends:  # a table that the page's end cuts has no rule there
        down_to = [line for line in columns if line[1] == end]
        if len(down_to) > MEETS_AS_FRAME:
            boxes[down_to[0][0], end, down_to[-1][0], max(top for _, _, top in down_to)] = None
    return [list(box) for box in boxes]


def end_to_end(lines: Lines) -> Lines:
    """Lines of one direction, those that go on in each other as one: a table may be drawn cell by cell."""
    whole: list[tuple[int, int, int]] = []
    for place, start, end in sorted(lines):
        if whole and whole[-1][0] == place and start <= whole[-1][2] + NEAR:
            whole[-1] = (place, whole[-1][1], max(end, whole[-1][2]))
        else:
            whole.append((place, start, end))
    return set(whole)


def meets(line: tuple[int, int, int], others: Lines) -> int:
    """How many lines of the other direction a line meets, those that lie close together counting once."""
    place, start, end = line
    met = sorted({
        other for other, other_start, other_end in others
        if start - NEAR <= other <= end + NEAR and other_start - NEAR <= place <= other_end + NEAR
    })  # fmt: skip
    return sum(number == 0 or other - met[number - 1] > NEAR for number, other in enumerate(met))


def text_by_pypdf(path: str, index: int) -> str:
    """A page's text by the one library that reads PDFs with a broken ToUnicode map; empty if it can't either."""
    from pypdf.errors import PyPdfError

    try:
        return pypdf_reader(path).pages[index].extract_text()
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return ""  # its parser meets whatever the file holds; the page stays flagged


def ruled_tables(path: str, index: int, sides: list[list[int]]) -> dict[str, list[Any]]:
    """The tables drawn with lines on a page, in the order of `tables`: rows of cells with their lines; `spans`: the
    cells that are several rows or columns wide (top, left, bottom and right, in rows and columns); `boxes`: left,
    bottom, right and top around them. `sides` are boxes of tables without lines around them."""
    from pdfminer.pdfexceptions import PDFException

    try:
        page = plumbed(path).pages[index]
        left, bottom = float(page.bbox[0]), float(page.bbox[3])
        # without x_tolerance_ratio Korean words run together: word F1 0.28 instead of 0.94
        settings: dict[str, Any] = {"text_x_tolerance_ratio": 0.15}
        lines = [line for box in sides for line in frame(box, left, bottom)]
        if lines:
            settings["explicit_vertical_lines"] = [line for line in lines if line["x0"] == line["x1"]]
            settings["explicit_horizontal_lines"] = [line for line in lines if line["x0"] != line["x1"]]
        found = page.find_tables(settings)
        tables = [[[cell or "" for cell in row] for row in table.extract(x_tolerance_ratio=0.15)] for table in found]
        spans = [spans_of(table) for table in found]
        boxes = [[x0 - left, bottom - y1, x1 - left, bottom - y0] for x0, y0, x1, y1 in (table.bbox for table in found)]
        page.close()
    except (PDFException, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return {}  # the page's text is there; only its tables aren't
    return {"tables": tables, "spans": spans, "boxes": boxes}


def frame(box: list[int], left: float, bottom: float) -> list[dict[str, Any]]:
    """The four lines around a box, as pdfplumber takes them. `left` and `bottom` are the page's corner."""
    x0, x1, top, low = box[0] + left, box[2] + left, bottom - box[3], bottom - box[1]
    ends = [(x0, top, x0, low), (x1, top, x1, low), (x0, top, x1, top), (x0, low, x1, low)]
    return [
        {"object_type": "line", "x0": a, "x1": c, "top": b, "bottom": d, "width": c - a, "height": d - b}
        for a, b, c, d in ends
    ]


def spans_of(table: Table) -> list[list[int]]:
    """The cells of a table that are more than one row or column wide: top, left, bottom, right, the last two beyond."""
    rows = table.rows
    tops = [min(cell[1] for cell in row.cells if cell) for row in rows]
    lefts = sorted({cell[0] for cell in table.cells})
    spans = []
    for top, row in enumerate(rows):
        for left, cell in enumerate(row.cells):
            if cell:
                bottom, right = sum(at < cell[3] - 1 for at in tops), sum(at < cell[2] - 1 for at in lefts)
                if bottom - top > 1 or right - left > 1:
                    spans.append([top, left, bottom, right])
    return spans


@cache
def pypdf_reader(path: str) -> Any:
    """The file as pypdf reads it, opened once: it is the only one of this process."""
    from pypdf import PdfReader

    return PdfReader(path)


@cache
def plumbed(path: str) -> Any:
    """The file as pdfplumber reads it, opened once: opening it for each page costs four times its tables."""
    import pdfplumber

    return pdfplumber.open(path)


def clean(text: str) -> str:
    """Line breaks as one character, soft hyphens and null characters out."""
    return (
        text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "").replace("\ufffe", "").replace("\u00ad", "")
    )


def say(line: Mapping[str, object]) -> None:
    """Write one JSON line."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
