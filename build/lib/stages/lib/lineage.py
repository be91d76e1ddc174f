"""What a model directory is made of: lineage.json, equal for equal inputs.

{"kind": "adapter", "base_weights_sha256": "3f…", "chat_template_sha256": "a1…", "data": {"pdf_qa/train.jsonl": "9c…"},
 "arguments": {"learning_rate": 0.002, …}}
"""

import hashlib
import json
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from stages.lib.errors import UserError
from stages.lib.records import write_json

FILE = "lineage.json"

OFF = {"kind": "off"}
"""The lineage of what an optional stage would have made."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(directory: Path) -> str:
    """SHA-256 over config.json and all safetensors files of a model directory, names included.

    Raises UserError where there are none.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{directory}: found no *.safetensors; needed a model. Run `dvc repro` for the stage that makes it"
        )
    digest = hashlib.sha256()
    for path in [directory / "config.json", *files]:
        if path.is_file():
            digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def arguments_of(section: Any) -> dict[str, Any]:
    """A stage's section as plain values, for its lineage."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value.value if isinstance(value, Enum) else value

    return asdict(section, dict_factory=lambda pairs: {key: plain(value) for key, value in pairs})


def write_lineage(directory: Path, content: dict[str, Any]) -> None:
    """Write lineage.json."""
    write_json(directory / FILE, content)


def read_lineage(directory: Path) -> dict[str, Any]:
    """Read lineage.json. Raises UserError if it is missing: nobody knows then what the directory holds."""
    path = directory / FILE
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; needed the record of what made {directory}. Rebuild it with `dvc repro`"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def refuse_foreign_base(adapter: Path, base: Path) -> None:
    """Raise UserError unless `adapter` was trained on exactly the weights in `base`.

    The adapter's own base_model_name_or_path is not looked at: it may be null, absolute or edited by hand.
    """
    trained_on = read_lineage(adapter)["base_weights_sha256"]
    found = weights_sha256(base)
    if trained_on != found:
        raise UserError(
            f"{adapter} was trained on weights {trained_on[:12]}, but {base} holds {found[:12]}. "
            f"Merging would give a ruined model; rebuild {adapter} on this base with `dvc repro`"
        )


def refuse_changed_weights(directory: Path, kind: str) -> None:
    """Raise UserError unless `directory` holds a model of this `kind` with exactly the weights its lineage records."""
    lineage = read_lineage(directory)
    if lineage["kind"] != kind:
        raise UserError(
            f"{directory}: its lineage.json says {lineage['kind']!r}, needed {kind!r}. Rebuild it with `dvc repro`"
        )
    found = weights_sha256(directory)
    if lineage["weights_sha256"] != found:
        raise UserError(
            f"{directory} holds weights {found[:12]}, but its lineage.json records {lineage['weights_sha256'][:12]}: "
            "they are not what its merge wrote. Rebuild it with `dvc repro`"
        )
