"""Rows of a data set, from a hub or from a file in the same schema, chosen by the same rules."""

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from stages.lib.data.file_formats import LINES, read_rows
from stages.lib.data.hub_rows import first_rows, whole_split
from stages.lib.data.jsonl_reader import Line, Rejected, as_text, encoding_of, opened, parse
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import file_sha256
from stages.lib.schema.choices import RowSource
from stages.lib.schema.data import Rows


def load_rows(rows: Rows) -> Iterator[Line | Rejected]:
    """Yield the rows that `rows` asks for, in its order; memory doesn't grow with the rows.

    The shuffle is that of `datasets.Dataset.shuffle(seed)`, a permutation by numpy's default generator, so that a
    file and a hub data set of equal length give the same order. Of a hub data set only the files of the split are
    downloaded, and without a shuffle only as much of them as `skip` + `take` rows need. Raises UserError if the
    source can't be read or is shorter than `skip` + `take`.
    """
    yield from file_rows(rows) if rows.source is RowSource.jsonl else hub_rows(rows)


def version(rows: Rows) -> str:
    """What pins the rows: the hub's commit, or the SHA-256 of the file."""
    return rows.revision if rows.source is RowSource.hub else file_sha256(Path(rows.path))


def name(rows: Rows) -> str:
    """The source's name for reports."""
    return f"{rows.id} {rows.split}" if rows.source is RowSource.hub else Path(rows.path).name


def chosen(rows: Rows, length: int) -> np.ndarray:
    """The indices of the rows asked for, among `length`. Raises UserError if there are too few."""
    needed = rows.skip + max(rows.take, 1)
    if length < needed:
        raise UserError(
            f"{rows.path or rows.id}: found {length} rows, needed {needed} (skip {rows.skip}, take {rows.take})"
        )
    order = np.arange(length)
    if rows.shuffle_seed >= 0:
        order = np.random.default_rng(rows.shuffle_seed).permutation(length)
    return order[rows.skip : rows.skip + rows.take if rows.take else None]


def file_rows(rows: Rows) -> Iterator[Line | Rejected]:
    """Rows of a file by their byte offsets; blank lines are no rows. Other formats are JSON Lines in a scratch file."""
    path = Path(rows.path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; needed a file of rows. Check the path in conf/data")
    if path.name.lower().endswith(LINES) and encoding_of(path) in ("utf-8", "utf-8-sig"):
        yield from lines_by_offset(path, rows)
        return
    offsets = array("Q")
    with TemporaryFile() as scratch:
        for line in read_rows(path):
            offsets.append(scratch.tell())
            kept = [line.where, line.value, line.cells] if isinstance(line, Line) else vars(line)
            scratch.write(as_text(kept).encode() + b"\n")
        for index in chosen(rows, len(offsets)):
            scratch.seek(offsets[index])
            kept = json.loads(scratch.readline())
            yield Rejected(**kept) if isinstance(kept, dict) else Line(*kept)


def lines_by_offset(path: Path, rows: Rows) -> Iterator[Line | Rejected]:
    """The lines asked for of a JSON Lines file in UTF-8."""
    offsets, numbers, offset = array("Q"), array("Q"), 0
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                offsets.append(offset)
                numbers.append(number)
            offset += len(line)
        for index in chosen(rows, len(offsets)):
            file.seek(offsets[index])
            yield parse(f"{path}:{numbers[index]}", file.readline().decode("utf-8-sig"))


def hub_rows(rows: Rows) -> Iterator[Line]:
    """Rows of a split of a hub data set, of which only that split's files are downloaded, or only their beginning."""
    if rows.shuffle_seed < 0 and rows.take:
        indices = np.arange(rows.skip, rows.skip + rows.take)
        found: Any = first_rows(rows.id, rows.revision, rows.split, rows.skip + rows.take)[rows.skip :]
        if len(found) < rows.take:
            raise UserError(f"{rows.id}: found {rows.skip + len(found)} rows, needed {rows.skip + rows.take} "
                            f"(skip {rows.skip}, take {rows.take})")  # fmt: skip
    else:
        dataset = whole_split(rows.id, rows.revision, rows.split)
        indices = chosen(rows, len(dataset))
        found = dataset.select(indices)
    for index, row in zip(indices, found, strict=True):
        yield Line(f"{rows.id} {rows.split}:{index + 1}", row)
