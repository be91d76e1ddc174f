"""What a model directory is made of: lineage.json, equal for equal inputs.

{"kind": "adapter", "base_weights_sha256": "3f…", "chat_template_sha256": "a1…", "data": {"pdf_qa/train.jsonl": "9c…"},
 "arguments": {"learning_rate": 0.002, …}, "files": {"adapter_model.safetensors": "77…", …}, "lineage_sha256": "e0…"}
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import DataclassInstance

FILE = "lineage.json"

OFF = {"kind": "off"}
"""The lineage of what an optional stage would have made."""

LARGE = 2**20
"""Bytes from which a file is hashed once by a process: its device, inode, size and time tell it from another."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes as hexadecimal digits."""
    found = path.stat()
    if found.st_size < LARGE:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return large_file_sha256(path.resolve(), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@cache
def large_file_sha256(path: Path, *identity: int) -> str:
    """SHA-256 of a file that `identity` tells from others that stood at its path."""
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


def arguments_of(section: DataclassInstance) -> dict[str, Any]:
    """A stage's section as plain values, for its lineage."""

    def plain(value: object) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value.value if isinstance(value, Enum) else value

    return asdict(section, dict_factory=lambda pairs: {key: plain(value) for key, value in pairs})


def write_lineage(directory: Path, content: Mapping[str, object]) -> None:
    """Write lineage.json, after all other files of the directory, with their SHA-256 and its own."""
    if content != OFF:
        files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / FILE)
        content = {**content, "files": {str(path.relative_to(directory)): file_sha256(path) for path in files}}
        content["lineage_sha256"] = digest_of(content)
    write_json(directory / FILE, content)


def digest_of(lineage: Mapping[str, object]) -> str:
    """SHA-256 of a lineage's content, its own digest aside."""
    content = {key: value for key, value in lineage.items() if key != "lineage_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_lineage(directory: Path) -> dict[str, Any]:
    """Read lineage.json. Raises UserError if nobody knows what the directory holds: it is missing, or damaged."""
    path = directory / FILE
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; needed the record of what made {directory}. Rebuild it with `dvc repro`"
        )
    try:
        lineage = json.loads(path.read_bytes())
    except ValueError:
        lineage = None
    if lineage != OFF and (not isinstance(lineage, dict) or lineage.get("lineage_sha256") != digest_of(lineage)):
        raise UserError(
            f"{path}: its content isn't what was written: needed its own checksum. {how_to_restore(directory, [FILE])}"
        )
    return lineage


def refuse_damaged(directory: Path) -> dict[str, Any]:
    """The lineage of a model directory. Raises UserError unless each of its files is what its stage wrote.

    Where a bit flips on a disk, or a program writes through a hard link into DVC's cache, DVC sees no change.
    """
    lineage = read_lineage(directory)
    written = lineage.get("files", {})
    found = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()} - {FILE}
    damaged = [name for name in written if name not in found or file_sha256(directory / name) != written[name]]
    unexpected = sorted(found - set(written))
    if damaged or unexpected:
        what = [f"{name} isn't what its stage wrote: needed the SHA-256 in {FILE}" for name in damaged]
        what += [f"{name} was not written by its stage" for name in unexpected]
        raise UserError(f"{directory}: {'; '.join(what)}. {how_to_restore(directory, damaged)}")
    return lineage


def how_to_restore(directory: Path, damaged: list[str]) -> str:
    """What to do about a damaged directory. DVC trusts the read-only files of its cache, which may be the same ones."""
    paths = [directory / name for name in damaged if (directory / name).is_file()]
    same = " -o ".join(f"-samefile {shlex.quote(str(path))}" for path in paths)
    remove = f'find "$(dvc cache dir)" \\( {same} \\) -delete; ' if same else ""
    return f"To have it made again: {remove}rm -r {shlex.quote(str(directory))}; dvc repro"


def refuse_foreign_base(adapter: Path, base: Path) -> None:
    """Raise UserError unless `adapter` was trained on exactly the weights in `base`, and both are what was written.

    The adapter's own base_model_name_or_path is not looked at: it may be null, absolute or edited by hand.
    """
    trained_on = refuse_damaged(adapter)["base_weights_sha256"]
    found = weights_sha256(base)
    if trained_on != found:
        raise UserError(
            f"{adapter} was trained on weights {trained_on[:12]}, but {base} holds {found[:12]}. "
            f"Merging would give a ruined model; rebuild {adapter} on this base with `dvc repro`"
        )
    refuse_damaged(base)


def refuse_changed_weights(directory: Path, kind: str) -> None:
    """Raise UserError unless `directory` holds a model of this `kind` with exactly the files its lineage records."""
    lineage = refuse_damaged(directory)
    if lineage["kind"] != kind:
        raise UserError(
            f"{directory}: its lineage.json says {lineage['kind']!r}, needed {kind!r}. Rebuild it with `dvc repro`"
        )
