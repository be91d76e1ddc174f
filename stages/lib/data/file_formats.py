"""Rows of a file in any of the formats that people have them in, one at a time; the name's ending says which.

JSON Lines    {"question": "…", "answer": "…"}                                        .jsonl .ndjson
JSON          [{"question": "…"}, …], or an object whose `data` is such a list        .json
a table       question,answer  (or with semicolons, tabs or bars between the cells)   .csv .tsv
any of these, packed                                                                  .jsonl.gz .json.gz .csv.gz …
Parquet and Arrow, as `datasets` and pandas write them                                .parquet .arrow
Excel's sheets, each with a header row (needs openpyxl, the extra `xlsx`)             .xlsx
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from stages.lib.data.jsonl_reader import MAX_LINE, Line, Rejected, opened, opened_text, parse, read_lines
from stages.lib.every_stage.errors import UserError

LINES, JSON, TABLES, PARQUET, ARROW, EXCEL = (
    (".jsonl", ".ndjson"),
    (".json",),
    (".csv", ".tsv"),
    (".parquet",),
    (".arrow",),
    (".xlsx",),
)
PACKED = tuple(f"{ending}.gz" for ending in (*LINES, *JSON, *TABLES))
ENDINGS = (*LINES, *JSON, *TABLES, *PACKED, *PARQUET, *ARROW, *EXCEL)
"""What the name of a file of rows ends in."""
DELIMITERS = ",;\t|"
PIECE = 2**18
"""Characters of a JSON file that are read at once."""
BATCH = 500
"""Rows of a Parquet or Arrow file that are Python objects at once."""


def holds_rows(path: Path) -> bool:
    """Whether a file's name says that it is in one of the formats."""
    return path.name.lower().endswith(ENDINGS)


def read_rows(path: Path) -> Iterator[Line | Rejected]:
    """Yield every row of a file as a value, or as a reject that says what is wrong with it.

    A row's place is `file:line`, or `file:n` for the n-th row where a file has no lines. Memory doesn't grow with the
    file. Raises UserError for a file that can't be read at all, or whose ending is none of ENDINGS.
    """
    name = path.name.lower().removesuffix(".gz")
    if not path.is_file():
        raise UserError(f"{path}: no such file; needed a file of rows. Check the paths in conf/data")
    if name.endswith(LINES):
        yield from read_lines(path)
    elif name.endswith(JSON):
        yield from json_rows(path)
    elif name.endswith(TABLES):
        yield from table_rows(path)
    elif name.endswith((*PARQUET, *ARROW)):
        yield from arrow_rows(path)
    elif name.endswith(EXCEL):
        yield from excel_rows(path)
    else:
        raise UserError(f"{path}: found the ending {path.suffix!r}, needed one of {', '.join(ENDINGS)}")


def json_rows(path: Path) -> Iterator[Line | Rejected]:
    """Yield the values of a JSON array, of the list `data` of an object (as SQuAD has it), or of values in sequence."""
    for number, text in enumerate(json_texts(path), start=1):
        yield parse(f"{path}:{number}", text)


def json_texts(path: Path) -> Iterator[str]:
    """Yield each row of a JSON file as its text. Raises UserError naming line and column of what isn't JSON."""
    with opened_text(path) as file:
        text = Text(path, file)
        if text.peek() == "[":
            yield from text.elements()
            return text.refuse_more()
        whole = text.value(may_be_long=True)
    if not whole:
        with opened_text(path) as file:
            yield from Text(path, file).elements_of_data()
        return
    with opened_text(path) as file:
        text = Text(path, file)
        while text.peek():
            one = text.value()
            rows = data_of(one)
            yield from [one] if rows is None else (json.dumps(row, ensure_ascii=False) for row in rows)


def data_of(text: str) -> list[Any] | None:
    """The rows under `data` of an object that holds nothing else that could be one; None for any other value."""
    value = json.loads(text)
    rows = value.get("data") if isinstance(value, dict) else None
    return rows if isinstance(rows, list) and all(isinstance(row, dict) for row in rows) else None


class Text:
    """A JSON text of any length, of which only the value in hand is in memory."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file = path, file
        self.buffer, self.at = "", 0
        self.lines = 1  # of the buffer's first character
        self.column = 1
        self.ended = False

    def read_more(self) -> None:
        """Drop what was taken and read on, each time more, so that a long value costs no more than twice its length."""
        taken = self.buffer[: self.at]
        self.lines += taken.count("\n")
        self.column = len(taken) - taken.rfind("\n") if "\n" in taken else self.column + len(taken)
        left = self.buffer[self.at :]
        piece = self.file.read(max(PIECE, len(left)))
        self.ended = not piece
        self.buffer, self.at = left + piece, 0

    def peek(self) -> str:
        """The next character that isn't blank, not taken; empty at the end."""
        while True:
            while self.at < len(self.buffer):
                if self.buffer[self.at] not in " \t\r\n":
                    return self.buffer[self.at]
                self.at += 1
            if self.ended:
                return ""
            self.read_more()

    def take(self, char: str) -> None:
        """Pass over a sign that must come next."""
        if self.peek() != char:
            raise self.wrong(f"needed {char!r}", self.at)
        self.at += 1

    def value(self, may_be_long: bool = False) -> str:
        """The next value's text; empty if it is longer than MAX_LINE characters and `may_be_long`."""
        self.peek()
        decoder = json.JSONDecoder()
        while True:
            try:
                _, end = decoder.raw_decode(self.buffer, self.at)
                if end < len(self.buffer) or self.ended:
                    found = self.buffer[self.at : end]
                    self.at = end
                    return found
            except json.JSONDecodeError as error:
                if self.ended:
                    raise self.wrong(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:  # a number of 5,000 digits, brackets nested 10,000 deep
                raise self.wrong(str(error), self.at) from None
            if len(self.buffer) - self.at > MAX_LINE:
                if may_be_long:
                    return ""
                raise self.wrong(f"no value ends within {MAX_LINE} characters", self.at)
            self.read_more()

    def elements(self) -> Iterator[str]:
        """Yield the texts of an array's elements."""
        self.take("[")
        if self.peek() == "]":
            return self.take("]")
        while True:
            yield self.value()
            if self.peek() == "]":
                return self.take("]")
            self.take(",")

    def elements_of_data(self) -> Iterator[str]:
        """Yield the texts of the elements of the list `data` of an object too long to read whole."""
        self.take("{")
        found = False
        while True:
            key = self.value()
            self.take(":")
            if key == '"data"' and self.peek() == "[":
                found = True
                yield from self.elements()
            else:
                self.value()
            if self.peek() == "}":
                break
            self.take(",")
        if not found:
            raise UserError(f"{self.path}: found one object without a list `data`, needed an array of rows in brackets")

    def refuse_more(self) -> None:
        """Raise UserError if anything follows what was read."""
        if self.peek():
            raise self.wrong("needed the end of the file", self.at)

    def wrong(self, what: str, place: int) -> UserError:
        """A UserError that names line and column."""
        before = self.buffer[:place]
        line = self.lines + before.count("\n")
        column = len(before) - before.rfind("\n") if "\n" in before else self.column + len(before)
        found = self.buffer[place : place + 20] or "the end of the file"
        return UserError(f"{self.path}:{line}:{column}: invalid_json: {what}, found {found!r}; fix the file there")


def table_rows(path: Path) -> Iterator[Line | Rejected]:
    """Yield the rows under the header row of a table of text cells; blank lines are no rows."""
    with opened_text(path, newline="") as file:
        lines = iter(lambda: file.readline(MAX_LINE), "")
        first = next((line for line in lines if line.strip()), "")
        csv.field_size_limit(MAX_LINE)
        reader = csv.reader(chain([first], lines), delimiter=delimiter_of(first), strict=True)
        header: list[str] = []
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                detail = f"{error}, in lines {number} to {reader.line_num}: a quote in a cell is written twice"
                yield Rejected(f"{path}:{number}", "invalid_row", detail, "")
                continue
            if cells is None:
                return
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = names_of(path, cells)
            else:
                yield row_of(f"{path}:{number}", header, cells)


def delimiter_of(header: str) -> str:
    """The sign between the cells of a header row: the one that stands there most often, outside of quotes."""
    outside = "".join(header.split('"')[0::2])
    return max(DELIMITERS, key=outside.count)


def names_of(path: Path, cells: list[str]) -> list[str]:
    """The columns' names. Raises UserError if two are equal: one of two values would be lost."""
    names = [" ".join(cell.split()) or f"column {number}" for number, cell in enumerate(cells, start=1)]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: found the column {repeated} more than once in the header, needed a name for each")
    return names


def row_of(where: str, header: list[str], cells: list[str]) -> Line | Rejected:
    """A row of text cells by the header's names; without a cell too many or too few."""
    while len(cells) > len(header) and not cells[-1].strip():
        cells.pop()
    if len(cells) != len(header):
        detail = f"found {len(cells)} cells, needed {len(header)} as the header has: {header}"
        return Rejected(where, "invalid_row", detail, json.dumps(cells, ensure_ascii=False))
    if any("\ud800" <= char <= "\udfff" for cell in cells for char in cell):
        return Rejected(where, "invalid_unicode", "half of a surrogate pair", ascii(cells))
    return Line(where, dict(zip(header, cells, strict=True)), cells=True)


def arrow_rows(path: Path) -> Iterator[Line]:
    """Yield the rows of a Parquet file, or of an Arrow file in either of its two forms."""
    import pyarrow

    number = 0
    try:
        for batch in arrow_batches(path):
            for row in batch.to_pylist():
                number += 1
                yield Line(f"{path}:{number}", row)
    except (pyarrow.ArrowException, OSError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"{path}: damaged, or not in the format of its ending: {said}") from None


def arrow_batches(path: Path) -> Iterator[Any]:
    """Yield the record batches of a file."""
    import pyarrow
    import pyarrow.parquet

    if path.name.lower().endswith(PARQUET):
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from file.iter_batches(BATCH)
        return
    with pyarrow.memory_map(str(path)) as source:
        try:
            reader = pyarrow.ipc.open_file(source)
            batches: Iterable[Any] = (reader.get_batch(number) for number in range(reader.num_record_batches))
        except pyarrow.ArrowInvalid:  # the form that `datasets` writes
            source.seek(0)
            batches = pyarrow.ipc.open_stream(source)
        for batch in batches:
            for start in range(0, batch.num_rows, BATCH):
                yield batch.slice(start, BATCH)


def excel_rows(path: Path) -> Iterator[Line | Rejected]:
    """Yield the rows of every sheet under its header row, cells as text."""
    try:
        import openpyxl
    except ImportError:
        raise UserError(f"{path}: openpyxl is not installed, needed to read .xlsx: pip install 'openpyxl>=3.1,<4', "
                        "or save the sheet as CSV") from None  # fmt: skip
    from zipfile import BadZipFile

    try:
        with opened(path) as file:
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            for sheet in book.worksheets:
                yield from sheet_rows(f"{path}" if len(book.worksheets) == 1 else f"{path} {sheet.title}", sheet)
    except (BadZipFile, KeyError, ValueError, openpyxl.utils.exceptions.InvalidFileException) as error:
        raise UserError(f"{path}: damaged, or no .xlsx: {error}; save it again, or as CSV") from None


def sheet_rows(where: str, sheet: Any) -> Iterator[Line | Rejected]:
    """Yield the rows of one sheet; blank rows are none."""
    header: list[str] = []
    for number, values in enumerate(sheet.iter_rows(values_only=True), start=1):
        cells = [cell_text(value) for value in values]
        if not any(cell.strip() for cell in cells):
            continue
        if header:
            cells += [""] * (len(header) - len(cells))
            yield row_of(f"{where}:{number}", header, cells)
        else:
            while not cells[-1].strip():
                cells.pop()
            header = names_of(Path(where), cells)


def cell_text(value: object) -> str:
    """What a cell of a sheet shows, but for its number format."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else str(value)
