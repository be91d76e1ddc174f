"""JSON Lines from anywhere: whatever encoding, damaged lines beside good ones, nothing lost uncounted.

{"instruction": "여권과로 거는 전화번호는?", "output": "여권과 전화번호는 099-731-5913입니다.", "fact_id": "phone"}
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from stages.lib.every_stage.errors import UserError

MAX_LINE = 8 * 2**20
"""Characters. A longer line is no row of Q&A, and reading it whole would let one file fill the memory."""

BOMS = [
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]


@dataclass
class Rejected:
    """One row that doesn't go on: where it stood, its reason code, what was found, its text, and the row as far as it
    could be read."""

    where: str
    reason: str
    detail: str
    text: str
    row: dict[str, Any] | None = None


@dataclass
class Line:
    """One value and where it stood, as `file:line`. `cells` says that its texts may be numbers or lists: a table's."""

    where: str
    value: Any
    cells: bool = False


class DuplicateKey(ValueError):
    """An object names a key twice, so that one of two values would be lost."""


def read_lines(path: Path) -> Iterator[Line | Rejected]:
    """Yield every line that isn't blank as JSON or as a reject with its column; memory doesn't grow with the file.

    Raises UserError for a missing file or bytes that no supported encoding explains.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; needed JSON Lines. Check the paths in conf/data")
    with opened_text(path) as file:
        number = 0
        while text := file.readline(MAX_LINE):
            number += 1
            where = f"{path}:{number}"
            if len(text) == MAX_LINE and not text.endswith("\n"):
                while (rest := file.readline(MAX_LINE)) and not rest.endswith("\n"):
                    pass
                yield Rejected(where, "line_too_long", f"more than {MAX_LINE} characters", text[:200])
            elif text.strip():
                yield parse(where, text)


def parse(where: str, text: str) -> Line | Rejected:
    """One line as a JSON value, or rejected as `invalid_json`, `duplicate_key` or `invalid_unicode`."""
    try:
        value = json.loads(text, object_pairs_hook=refuse_duplicate_keys, parse_constant=refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()  # fails for half of a surrogate pair
    except DuplicateKey as error:
        return Rejected(where, "duplicate_key", str(error), text)
    except json.JSONDecodeError as error:
        return Rejected(f"{where}:{error.colno}", "invalid_json", error.msg, text)
    except UnicodeEncodeError:
        return Rejected(where, "invalid_unicode", "half of a surrogate pair (\\ud800 to \\udfff)", ascii(text))
    except (ValueError, RecursionError) as error:  # NaN, a number of 5,000 digits, brackets nested 10,000 deep
        return Rejected(where, "invalid_json", str(error), text)
    return Line(where, value)


def refuse_duplicate_keys(pairs: list[tuple[str, object]]) -> dict[str, Any]:
    """A JSON object as a dictionary. Raises DuplicateKey where json would silently keep the last value."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise DuplicateKey(f"{sorted({name for name in names if names.count(name) > 1})} stands there more than once")
    return content


def refuse_constant(name: str) -> None:
    """Raise ValueError for NaN and Infinity, which Python reads and JSON doesn't have."""
    raise ValueError(f"{name} is no JSON")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked if its name ends in .gz. Raises UserError if they can't be read or unpacked."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged: {error}; pack or fetch it again") from None
    except OSError as error:
        raise UserError(
            f"{path}: can't be read: {error.strerror or error}; check the file and its permissions"
        ) from None


@contextmanager
def opened_text(path: Path, newline: str = "\n") -> Iterator[io.TextIOWrapper]:
    """The text of a file in the encoding that explains all of it. Raises UserError as `opened` and `encoding_of` do."""
    encoding = encoding_of(path)
    with opened(path) as file, io.TextIOWrapper(file, encoding=encoding, newline=newline) as text:
        yield text


def encoding_of(path: Path) -> str:
    """The encoding of a text file, by its byte order mark or by strict decoding of all of it.

    UTF-8 before UTF-16 before cp949, each strictly: cp949 text is hardly ever valid UTF-8. Raises UserError naming
    the line and column of the first byte that isn't UTF-8, if none of them decodes the file.
    """
    with opened(path) as file:
        head = file.read(4096)
    for mark, encoding in BOMS:
        if head.startswith(mark):
            candidates = [encoding]
            break
    else:
        zeros = [head[0::2].count(0), head[1::2].count(0)]
        wide = ["utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"] if sum(zeros) > len(head) // 4 else []
        candidates = ["utf-8", *wide, "cp949"] if not wide else [*wide, "utf-8", "cp949"]
    for encoding in candidates:
        if decodes(path, encoding):
            return encoding
    line, column, byte = first_undecodable(path, candidates[0])
    raise UserError(f"{path}:{line}:{column}: undecodable: found byte 0x{byte:02x}, which is no "
                    f"{' or '.join(candidates)}; save the file as UTF-8")  # fmt: skip


def decodes(path: Path, encoding: str) -> bool:
    """Whether all bytes of the file are valid in `encoding`."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    try:
        with opened(path) as file:
            while block := file.read(2**20):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeError:
        return False
    return True


def first_undecodable(path: Path, encoding: str) -> tuple[int, int, int]:
    """Line and column (bytes, both counted from 1) of the first byte that isn't valid, and the byte.

    For encodings in which a line break is not the byte 0x0a the place is the beginning of the file.
    """
    if encoding not in ("utf-8", "utf-8-sig"):
        with opened(path) as file:
            return 1, 1, file.read(1)[0]
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return number, error.start + 1, line[error.start]
    raise AssertionError(f"{path} is valid UTF-8")


def as_text(value: object) -> str:
    """A row as one line of text, for rejects.jsonl."""
    return json.dumps(value, ensure_ascii=False, default=str)
