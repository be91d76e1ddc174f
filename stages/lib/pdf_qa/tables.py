"""Tables of a page: those drawn with lines, as pdfplumber finds them, and those that are only in columns.

A table knows its title: the caption over it (표 2, Table 8.12), if there is one.
"""

import re
from dataclasses import dataclass, field

from stages.lib.pdf_qa.pdf_pages import Page
from stages.lib.pdf_qa.table_grid import Grid, Join, grid_of, has_header
from stages.lib.pdf_qa.text_lines import TextLine

FEWEST_ROWS = 3
"""Rows of a table without lines, its header being one."""
LONGEST_CELL = 45
"""Characters of the usual cell, above which columns are columns of prose."""
CAPTION = re.compile(
    r"^\s*[<\[【(]?\s*(?:표|table|그림|figure|fig\.)\s*(?:\d[\d.\-]*|[IVX]+\b|(?=[>\]】):]))\s*[>\]】).:–-]*\s*",
    re.IGNORECASE,
)
CAPTION_ABOVE = 45.0
"""Points above a table within which its caption stands."""
NOTHING = re.compile(r"^(?:[\s\-–—·.]*|n\.\s?a\.?|n/a)$", re.IGNORECASE)
NUMERIC = re.compile(r"^[\s\d.,%$€₩()\-–/:x]+$")
UNREADABLE = re.compile(r"\(cid:\d+\)")


@dataclass
class Table:
    """Rows of cells, a merged one's text where it begins; what the cells mean to each other; the title; whether the
    first row is a header; and the numbers of the page's lines that are its text."""

    rows: list[list[str]]
    grid: Grid
    title: str = ""
    headed: bool = True
    numbers: list[int] = field(default_factory=list)

    def as_text(self) -> str:
        """The cells, row by row."""
        return "\n".join(" | ".join(cell for cell in row if cell) for row in self.rows)


def tables_of(page: Page, join: Join) -> tuple[dict[int, Table], set[int]]:
    """The page's tables by the number of their first line (negative: they have none), and all their lines' numbers.

    `join` makes one text of a cell's lines.
    """
    tables: dict[int, Table] = {}
    inside: set[int] = set()
    for count, rows in enumerate(page.tables):
        box = page.boxes[count] if count < len(page.boxes) else None
        numbers = [] if box is None else [n for n, line in enumerate(page.lines) if line.within(box)]
        top = box[3] if box else 0.0
        grid = grid_of(rows, page.spans[count] if count < len(page.spans) else [], join)
        first, others = header_lines(page, rows[0], numbers)
        headed = has_header(grid, first, others)
        texts = [[join(cell.split("\n")) for cell in row] for row in rows]
        title = grid.title or (caption(page, top, numbers) if box else "")
        tables[min(numbers, default=-1 - count)] = Table(texts, grid, title, headed, numbers)
        inside |= set(numbers)
    for run in aligned_runs(page, inside):
        rows = [page.lines[number].cell_texts() for number in run]
        rows = with_corner(rows)
        if looks_like_a_table(rows, page.lines[run[0]].bold and not page.lines[run[1]].bold):
            title = caption(page, page.lines[run[0]].y1, run)
            tables[run[0]] = Table(rows, grid_of(rows, [], join), title, numbers=run)
            inside |= set(run)
    return tables, inside


def header_lines(page: Page, header: list[str], numbers: list[int]) -> tuple[list[TextLine], list[TextLine]]:
    """A table's lines that are its first row's, and the others."""
    said = "".join("".join(header).split())
    lines = [page.lines[number] for number in numbers]
    first = [line for line in lines if "".join(line.text.split()) in said]
    return first, [line for line in lines if line not in first]


def caption(page: Page, top: float, numbers: list[int]) -> str:
    """The text of the caption above a table, its number taken off; empty if there is none."""
    above = [
        line
        for number, line in enumerate(page.lines)
        if number not in numbers and line.size and -2 <= line.y0 - top <= CAPTION_ABOVE and CAPTION.match(line.text)
    ]
    if not above:
        return ""
    first = min(above, key=lambda line: line.y0)
    below = [line for line in page.lines if line.bold == first.bold and 0 < first.y0 - line.y0 < 1.6 * first.size
             and line.y0 >= top - 2 and abs(line.size - first.size) < 1]  # fmt: skip
    text = " ".join(line.text.strip() for line in [first, *below[:1]])
    return CAPTION.sub("", text).strip()


def aligned_runs(page: Page, inside: set[int]) -> list[list[int]]:
    """Numbers of lines that follow each other and whose cells stand below each other."""
    runs: list[list[int]] = []
    run: list[int] = []
    for number, line in enumerate(page.lines):
        cells = line.cells
        if number in inside or len(cells) < 2:
            fits = False
        elif not run:
            fits = True
        else:
            above = page.lines[run[-1]]
            near = 0 < above.y0 - line.y0 < 3 * line.size
            header = len(run) == 1 and len(cells) == len(above.cells) + 1
            fits = near and (below(above, line, skip=header) if header or len(cells) == len(above.cells) else False)
        if fits:
            run.append(number)
            continue
        if len(run) >= FEWEST_ROWS:
            runs.append(run)
        run = [number] if number not in inside and len(cells) >= 2 else []
    if len(run) >= FEWEST_ROWS:
        runs.append(run)
    return runs


def below(above: TextLine, line: TextLine, skip: bool) -> bool:
    """Whether each cell of a line stands below one of the line above; `skip` leaves the first one out."""
    cells = line.cells[1:] if skip else line.cells
    slack = line.size
    return all(
        left < other_right + slack and right > other_left - slack
        for (_, left, right), (_, other_left, other_right) in zip(cells, above.cells, strict=True)
    )


def with_corner(rows: list[list[str]]) -> list[list[str]]:
    """Rows whose header has a cell for the first column, too."""
    if len(rows[0]) + 1 == len(rows[1]):
        return [["", *rows[0]], *rows[1:]]
    return rows


def looks_like_a_table(rows: list[list[str]], bold_header: bool) -> bool:
    """Whether aligned cells are a table's: short ones under a header that is bold, or of words over numbers."""
    cells = [cell for row in rows for cell in row]
    usual = sorted(map(len, cells))[len(cells) // 2]
    if usual > LONGEST_CELL or max(map(len, cells)) > 4 * LONGEST_CELL:
        return False
    values = [cell for row in rows[1:] for cell in row[1:]]
    return bold_header or 2 * sum(bool(NUMERIC.match(value)) for value in values) > len(values)
