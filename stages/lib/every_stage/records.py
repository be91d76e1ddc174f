"""JSON Lines files: one record a line, UTF-8.

{"id": "parking-fee-2", "fact_id": "parking-fee", "messages": [{"role": "user", "content": "…"}, …], …}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_jsonl(path: Path) -> Iterator[Any]:
    """Yield the objects of a JSON Lines file in order, of the type that the reader knows; blank lines are passed over.

    Raises UserError naming file and line for a missing file, bytes that aren't UTF-8, a line that isn't JSON or
    isn't an object.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; needed JSON Lines. Check the path in conf/data or run the stage before")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}:{number}: found bytes that are not UTF-8 ({error.reason}); save it as UTF-8"
                ) from None
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}:{error.colno}: found no JSON: {error.msg}") from None
            if not isinstance(record, dict):
                raise UserError(f"{path}:{number}: found a {type(record).__name__}, needed an object in braces")
            yield record


def write_jsonl(path: Path, records: Iterable[Mapping[str, object]], append: bool = False) -> int:
    """Write records one a line, after those of the file if `append`, and return how many there were."""
    count = 0
    with path.open("a" if append else "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


def write_json(path: Path, content: object) -> None:
    """Write JSON with sorted keys, so that equal content has equal bytes, and ASCII alone.

    DVC refuses metrics whose first 512 bytes are mostly others, as Hangul is, for a binary file.
    """
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="ascii")


def share_of(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone: rows split by it stay where they are when others are added."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32
