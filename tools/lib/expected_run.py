"""What the next `dvc repro` runs, and what it will take by the last runs on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from stages.lib.every_stage.errors import UserError

RUNS = Path("metrics/runs")
LOCK = Path("params.lock.yaml")


def expected_run(targets: list[str]) -> str:
    """One or two lines: which stages run, how long they took here before, what memory and disk they need."""
    stages = to_run(targets)
    if not stages:
        return "graft: everything is up to date"
    known = {name: record for name in stages if (record := last_run(name))}
    lines = [f"graft: out of date: {', '.join(stages)}"]
    if known:
        seconds = sum(record["process_seconds"] for record in known.values())
        peak = max(record["peak_memory_mib"] for record in known.values())
        unknown = [name for name in stages if name not in known and name != "config"]
        beside = f", beside {', '.join(unknown)}" if unknown else ""
        lines.append(
            f"graft: about {in_words(seconds)} and up to {peak / 1024:.1f} GiB of memory by the last runs{beside}; "
            f"{free_disk()}"
        )
    else:
        lines.append(f"graft: how long they take is known after the first run here; {free_disk()}")
    return "\n".join(lines)


def to_run(targets: list[str]) -> list[str]:
    """The stages that `dvc repro TARGETS` runs or may run: those that changed, and all that are made of them.

    Raises UserError where DVC can't say.
    """
    stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    asked = with_those_before(targets, stages) if targets else set(stages)
    done = subprocess.run(["dvc", "status", "--json", *targets], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"dvc status: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    stale = set(json.loads(done.stdout))
    for name in stages:  # in the order of dvc.yaml, where what a stage reads is made before it
        if stale & before(name, stages):
            stale.add(name)
    return [name for name in stages if name in stale & asked]


def before(name: str, stages: dict[str, Any]) -> set[str]:
    """The stages that make what the stage `name` reads."""
    read = [*stages[name].get("deps", []), *(file for entry in stages[name].get("params", []) for file in entry)]
    made = {path: maker for maker in stages for path in outs_of(stages[maker])}
    return {made[path] for path in read if path in made}


def outs_of(stage: dict[str, Any]) -> Iterator[str]:
    """Yield the paths of a stage's outputs, metrics and plots."""
    for kind in ("outs", "metrics", "plots"):
        for entry in stage.get(kind, []):
            yield from entry if isinstance(entry, dict) else [entry]


def with_those_before(targets: list[str], stages: dict[str, Any]) -> set[str]:
    """The stages `targets`, and all that they are made of."""
    found: set[str] = set()
    left = [name for name in targets if name in stages]
    while left:
        if (name := left.pop()) not in found:
            found.add(name)
            left += before(name, stages)
    return found


def last_run(stage: str) -> dict[str, Any] | None:
    """What a stage took when it last ran on this machine."""
    try:
        record: dict[str, Any] = json.loads((RUNS / f"{stage.replace('-', '_')}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if {"process_seconds", "peak_memory_mib"} <= record.keys() else None


def free_disk() -> str:
    """How much is free where the models are written."""
    return f"{shutil.disk_usage('.').free / 2**30:.0f} GiB of disk are free"


def in_words(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def keys_of_lock() -> list[str]:
    """Every key that a value can be given for, with the sign that follows it, in the order of params.lock.yaml."""
    if not LOCK.is_file():
        return []
    found = yaml.load(LOCK.read_bytes(), yaml.CSafeLoader)

    def keys(mapping: dict[str, Any], outer: str = "") -> Iterator[str]:
        for name, value in mapping.items():
            if isinstance(value, dict) and value:
                yield from keys(value, f"{outer}{name}.")
            else:
                yield f"{outer}{name}="

    return list(keys(found)) if isinstance(found, dict) else []
