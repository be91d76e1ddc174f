"""What a model directory is made of: lineage.json, equal for equal inputs.

{"kind": "adapter", "base_weights_sha256": "3f…", "chat_template_sha256": "a1…", "data": {"pdf_qa/train.jsonl": "9c…"},
 "arguments": {"learning_rate": 0.002, …}}
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from stages.lib.errors import UserError
from stages.lib.records import write_json

FILE = "lineage.json"


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
