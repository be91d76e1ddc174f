"""What a stage was started with, and whether it still holds when something is published.

DVC hashes code, inputs and values after a stage has ended. An edit or a checkout in between would be recorded as what
the result was made of, and the next `dvc repro` would pass the stage over. DVC may also have been killed, and started
again, while its stage lived on.
"""

from __future__ import annotations

import ctypes
import hashlib
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stages.lib.every_stage.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

PIPELINE = Path("dvc.yaml")
LOCK = Path("params.lock.yaml")
SMALL = 2**16
"""Bytes below which a file is known by its content: to save it again changes nothing. Larger ones are known by size,
time and inode, as DVC knows them."""
SHELLS = {"sh", "dash", "bash", "zsh", "ksh", "fish"}


@dataclass
class Started:
    """What a stage was started with."""

    stage: str
    root: str  # of the repository, an absolute path: a stage may go elsewhere
    section: Any  # plain values of params.lock.yaml; None for a stage without
    deps: list[str]  # its code and inputs, as dvc.yaml lists them
    files: dict[str, list[Any]]  # code and inputs, each with what tells it from another
    parent: int  # DVC's process, 0 if it had ended already
    parent_began: str


started: list[Started] = []
"""Of this process: one stage under DVC, none from a shell."""


def end_with_us() -> None:
    """Have the kernel send this process SIGTERM when its parent dies, however that comes about."""
    pr_set_pdeathsig = 1  # sys/prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def remember(stage: str) -> None:
    """Remember what the stage of this name, which DVC started, begins with, and end it with DVC."""
    end_with_us()
    parent, began = find_parent()
    root, deps = Path.cwd(), deps_of(stage)
    started[:] = [Started(stage, str(root), section_of(stage, root), deps, files_below(deps, root), parent, began)]


def refuse_changes() -> None:
    """Raise UserError if what the stage was started with has changed since, or the DVC that started it is gone."""
    for begun in started:
        if begun.parent and process(begun.parent)[0] != begun.parent_began:
            raise UserError(
                "the dvc that started this stage is gone, and another one may be at work here. Run `dvc repro` again"
            )
        root = Path(begun.root)
        now = files_below(begun.deps, root)
        changes = [difference(path, begun.files.get(path), now.get(path)) for path in sorted({*begun.files, *now})]
        changes.append(changed_values(begun.section, section_of(begun.stage, root)))
        if any(changes):
            raise UserError(
                f"changed while the stage ran: {'; '.join(filter(None, changes))}. DVC would record that as what this "
                "result was made of. Put it back or keep it, then run `dvc repro` again; training resumes from its "
                "checkpoint if it is put back"
            )


def section_of(stage: str, root: Path) -> Any:
    """The stage's section of params.lock.yaml in `root`, None where there is none.

    None too for a file that was cut or holds Git's marks of a conflict: `config` starts there, and writes it anew.
    """
    try:
        found = yaml.load((root / LOCK).read_bytes(), yaml.CSafeLoader)
    except (FileNotFoundError, yaml.YAMLError):
        return None
    return found.get(stage.replace("-", "_")) if isinstance(found, dict) else None


def deps_of(stage: str) -> list[str]:
    """The stage's dependencies in dvc.yaml."""
    if not PIPELINE.is_file():
        return []
    return yaml.load(PIPELINE.read_bytes(), yaml.CSafeLoader)["stages"].get(stage, {}).get("deps", [])


def files_below(paths: list[str], root: Path) -> dict[str, list[Any]]:
    """Every file at and below the paths, which are relative to `root`, with what tells it from another."""
    found: dict[str, list[Any]] = {}
    for path in (root / name for name in paths):
        files = path.rglob("*") if path.is_dir() else [path]
        for file in files:
            if file.is_file() and file.parent.name != "__pycache__":
                found[str(file.relative_to(root))] = identity(file)
    return found


def identity(file: Path) -> list[Any]:
    """What tells a file from another one at its path."""
    known = file.stat()
    if known.st_size < SMALL:
        return [hashlib.sha256(file.read_bytes()).hexdigest()]
    return [known.st_size, known.st_mtime_ns, known.st_ino]


def difference(path: str, before: list[object] | None, now: list[object] | None) -> str:
    if before == now:
        return ""
    return f"{path} was {'removed' if now is None else 'added' if before is None else 'edited or replaced'}"


def changed_values(before: Mapping[str, object] | None, now: Mapping[str, object] | None) -> str:
    """The values of params.lock.yaml that differ, in words; "" if none does."""
    if before == now:
        return ""
    old, new = before or {}, now or {}
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return f"in {LOCK} " + ", ".join(f"{name} was {old.get(name)!r} and is {new.get(name)!r}" for name in names)


def find_parent() -> tuple[int, str]:
    """The number of the process that started this one, beyond shells, and when it began; 0 if that has ended."""
    number = int(process("self")[2])
    while (found := process(number))[1] in SHELLS:
        number = int(found[2])
    return (number, found[0]) if found[0] else (0, "")


def process(number: int | str) -> tuple[str, str, str]:
    """When a process began (ticks since the machine did), its name, and its parent's number; "" where it has ended.

    Format of /proc/<number>/stat: 17 (sh) S 16 17 … with the beginning as its 22nd field; source: proc(5).
    """
    try:
        text = Path(f"/proc/{number}/stat").read_text(errors="replace")
    except OSError:
        return "", "", "0"
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return ("", "", "0") if fields[0] in ("Z", "X") else (fields[19], name, fields[1])
