"""What the cells of a table mean to each other: merged cells, headers of several rows, names in several columns, rows
that hold an outline (1. … 가. … 나. …) with a value beside each of its items.

| 구분   | 토요일 | 평일  |     `18:30` is merged over both rows: it is asked for each of them.
| 3월    | 17:00  | 18:30 |
| 6월    | 18:00  |       |
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stages.lib.pdf_qa.text_lines import TextLine

MARKERS = (
    re.compile(r"^[IVX]{1,5}\.\s+"),
    re.compile(r"^\d{1,3}[.)](?!\d)\s*"),
    re.compile(r"^[가-하][.)]\s*"),
    re.compile(r"^\(\d{1,3}\)\s*"),
    re.compile(r"^\([가-하]\)\s*"),
    re.compile(r"^(?:[①-⑳㉑-㉟㊱-㊿]|◯\s?\d{1,2})\s*"),
)
"""What the items of an outline begin with, a kind of them for each level."""
LONGEST_SHARED = 80
"""Characters of a cell that stands beside all rows, above which it is a note and no value."""
Join = Callable[[list[str]], str]
"""Makes one text of a cell's lines."""


@dataclass
class Cell:
    """A cell of a table's body: its text, of how many lines, the rows and columns that it covers, the last included."""

    text: str
    lines: int
    first: int
    last: int
    left: int
    right: int

    def covers(self, other: "Cell") -> bool:
        """Whether it stands beside all rows of the other."""
        return self.first <= other.first and other.last <= self.last


@dataclass
class Grid:
    """A table: its title if a cell over all columns holds one, its header, how many columns name a row, its body."""

    title: str
    header: list[str]
    names: int
    rows: list[list[Cell]]

    def values(self) -> Iterator[tuple[str, str, str]]:
        """Yield the name of a row, the name of a column and the text where they meet, each value once.

        A row's name is its first cell; if the value stands beside a part of that alone, the cells between say which. In
        a table of two columns all that stands beside a name is one value.
        """
        for number, row in enumerate(self.rows):
            for column in range(self.names, len(row)):
                value, name = row[column], self.name_of(number, column)
                across = value.left < self.names or (value.right > value.left and value.lines > 1)
                note = value.first == 0 and value.last == len(self.rows) - 1 > 0 and len(value.text) > LONGEST_SHARED
                beside = [value.text]
                if self.names == 1 and len(self.header) == 2 and row[0].first == number < row[0].last:
                    name, beside = row[0].text, [other[1].text for other in self.rows[number : row[0].last + 1]]
                if name and not across and not note and column < len(self.header):
                    yield name, self.header[column], "\n".join(beside)

    def name_of(self, number: int, column: int) -> str:
        """What names a value's row; empty if nothing does, or if the row above is named so, too."""
        row = self.rows[number]
        value, naming = row[column], [row[0]]
        for cell in row[1 : self.names]:
            if cell is not naming[-1]:
                naming.append(cell)
        narrowest = min(naming, key=lambda cell: cell.last - cell.first)
        for cell in row[self.names : column]:
            if value.covers(narrowest):
                break
            if narrowest.covers(cell) and not cell.covers(narrowest):
                naming.append(cell)
                narrowest = cell
        if not value.covers(narrowest) or number != narrowest.first or not all(cell.text for cell in naming[:1]):
            return ""
        return " ".join(dict.fromkeys(cell.text for cell in naming if cell.text))


def grid_of(rows: list[list[str]], spans: list[list[int]], join: Join) -> Grid:
    """The grid of a table's rows, whose cells hold their lines. `spans` are the cells that cover several rows or
    columns (top, left, bottom, right, the last two beyond)."""
    width = max(map(len, rows))
    title = ""
    while len(rows) > 2 and [0, 0, 1, width] in spans and width > 1:
        title, rows = join(rows[0][0].split("\n")), rows[1:]
        spans = [[top - 1, left, bottom - 1, right] for top, left, bottom, right in spans if top]
    covering = {(top, left): (bottom, right) for top, left, bottom, right in spans}
    depth, names = covering.get((0, 0), (1, 1))
    if depth >= len(rows) or names >= width:
        depth, names = 1, 1
    header_rows, body = filled(rows, spans)[:depth], rows[depth:]
    header = [
        " ".join(dict.fromkeys(join(row[column].split("\n")) for row in header_rows if row[column].strip()))
        for column in range(min(map(len, header_rows)))
    ]
    body_spans = [[top - depth, left, bottom - depth, right] for top, left, bottom, right in spans if top >= depth]
    body, body_spans = without_outlines(body, body_spans)
    return Grid(title, header, names, cells_of(body, body_spans, join))


def filled(rows: list[list[str]], spans: list[list[int]]) -> list[list[str]]:
    """Rows with the text of each merged cell in all the places that it covers."""
    whole = [list(row) for row in rows]
    for top, left, bottom, right in spans:
        for row in whole[top:bottom]:
            row[left:right] = [rows[top][left]] * len(row[left:right])
    return whole


def cells_of(rows: list[list[str]], spans: list[list[int]], join: Join) -> list[list[Cell]]:
    """The cells of rows; a merged one is the same object wherever it stands."""
    cells = [
        [
            Cell(join(text.split("\n")), text.count("\n") + 1, number, number, column, column)
            for column, text in enumerate(row)
        ]
        for number, row in enumerate(rows)
    ]
    for top, left, bottom, right in spans:
        merged = cells[top][left]
        if len(said := set(rows[top][left].split("\n"))) == 1:  # printed once for each row
            merged.text = said.pop()
        merged.last, merged.right = bottom - 1, right - 1
        for row in cells[top:bottom]:
            row[left:right] = [merged] * len(row[left:right])
    return cells


def without_outlines(rows: list[list[str]], spans: list[list[int]]) -> tuple[list[list[str]], list[list[int]]]:
    """Rows and spans, a row whose cell is an outline and whose values have a line for each of its items in as many
    rows as there are items. In a table that has such rows an outline whose items don't match the values is left out."""
    found = [split_row(row) for row in rows]
    split_at = {at for at, parts in found if len(parts) > 1}
    if not split_at:
        return rows, spans
    places: list[int] = []
    flat: list[list[str]] = []
    added: list[list[int]] = []
    for (at, parts), row in zip(found, rows, strict=True):
        places.append(len(flat))
        if len(parts) == 1 and any(column < len(row) and len(items(row[column])) > 1 for column in split_at):
            parts = []
        if len(parts) > 1:
            added += [[len(flat), left, len(flat) + len(parts), left + 1] for left in range(at)]
        flat += parts
    places.append(len(flat))
    moved = [[places[top], left, places[bottom], right] for top, left, bottom, right in spans]
    return flat, [span for span in moved if span[0] < span[2]] + added


def split_row(row: list[str]) -> tuple[int, list[list[str]]]:
    """The column of a row's outline, and the rows that it makes of this one: one for each item."""
    lines = [cell.split("\n") for cell in row]
    same = len(row) > 1 and len(lines[0]) > 2 and all(len(cell) == len(lines[0]) for cell in lines)
    if same and not any(" " in line for cell in lines for line in cell):  # a list of words beside another
        return 0, [list(words) for words in zip(*lines, strict=True)]
    for column, text in enumerate(row[:-1]):
        named = items(text)
        values = [cell.split("\n") for cell in row[column + 1 :]]
        if len(named) > 1 and all(len(lines) == len(named) for lines in values):
            return column, [
                [*row[:column], name, *(lines[number] for lines in values)] for number, name in enumerate(named)
            ]
    return 0, [row]


def items(text: str) -> list[str]:
    """The innermost items of an outline, each under the items that it is in; empty if a text isn't one."""
    outline: list[tuple[int, list[str]]] = []
    for line in text.split("\n"):
        kind, found = next(
            ((kind, found) for kind, mark in enumerate(MARKERS) if (found := mark.match(line))), (0, None)
        )
        if found:
            outline.append((kind, [line[found.end() :].strip()]))
        elif outline:
            outline[-1][1].append(line)
        else:
            return []
    order = list(dict.fromkeys(kind for kind, _ in outline))
    leaves: list[str] = []
    path: list[list[str]] = []
    for number, (kind, lines) in enumerate(outline):
        level = order.index(kind)
        path = [*path[:level], lines]
        deeper = number + 1 < len(outline) and order.index(outline[number + 1][0]) > level
        if not deeper:
            leaves.append("\n".join(line for part in path for line in part))
    return leaves


def has_header(grid: Grid, lines: list[TextLine], body: list[TextLine]) -> bool:
    """Whether the first row of a table of two columns is a header: bold over what isn't, or unlike what stands below.

    `lines` are those of the first row, `body` the others.
    """
    if grid.names != 1 or len(grid.header) != 2 or not grid.rows:
        return True
    if lines and all(line.bold for line in lines):
        return True
    first, others = grid.header[1], [row[1].text for row in grid.rows if len(row) > 1]
    words = [word for word in re.findall(r"\w+", first) if len(word) > 1]
    shared = [sum(word in other for word in words) for other in others]
    similar = max(shared, default=0) > 1 or 2 * sum(count > 0 for count in shared) >= len(others)
    return not (first.endswith((".", "다")) or len(first) > 25 or similar)
