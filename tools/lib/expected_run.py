"""What the next `dvc repro` runs, and what it will take by the last runs on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.lib.every_stage.errors import UserError

RUNS = Path("metrics/runs")
LOCK = Path("params.lock.yaml")


@dataclass(frozen=True)
class Phrases:
    """One language's sentences; names in braces are filled in."""

    up_to_date: str
    out_of_date: str
    costs: str
    beside: str
    unknown: str
    disk: str
    seconds: str
    minutes: str
    hours: str


KOREAN = Phrases(
    up_to_date="graft: 모두 최신입니다",
    out_of_date="graft: 다시 실행할 스테이지: {stages}",
    costs="graft: 지난 실행 기준으로 약 {time}, 메모리 최대 {gib:.1f} GiB{beside}; {disk}",
    beside=" ({stages} 제외)",
    unknown="graft: 걸리는 시간은 이 컴퓨터에서 한 번 실행한 뒤에 알 수 있습니다; {disk}",
    disk="디스크 여유 {gib:.0f} GiB",
    seconds="{:.0f}초",
    minutes="{:.0f}분",
    hours="{:.1f}시간",
)
ENGLISH = Phrases(
    up_to_date="graft: everything is up to date",
    out_of_date="graft: out of date: {stages}",
    costs="graft: about {time} and up to {gib:.1f} GiB of memory by the last runs{beside}; {disk}",
    beside=", beside {stages}",
    unknown="graft: how long they take is known after the first run here; {disk}",
    disk="{gib:.0f} GiB of disk are free",
    seconds="{:.0f} seconds",
    minutes="{:.0f} minutes",
    hours="{:.1f} hours",
)


def expected_run(targets: list[str], korean: bool = False) -> str:
    """One or two lines: which stages run, how long they took here before, what memory and disk they need."""
    say, stages = KOREAN if korean else ENGLISH, to_run(targets)
    if not stages:
        return say.up_to_date
    known = {name: record for name in stages if (record := last_run(name))}
    lines, disk = [say.out_of_date.format(stages=", ".join(stages))], say.disk.format(gib=free_disk())
    if known:
        seconds = sum(record["process_seconds"] for record in known.values())
        gib = max(record["peak_memory_mib"] for record in known.values()) / 1024
        unknown = [name for name in stages if name not in known and name != "config"]
        beside = say.beside.format(stages=", ".join(unknown)) if unknown else ""
        lines.append(say.costs.format(time=in_words(seconds, say), gib=gib, beside=beside, disk=disk))
    else:
        lines.append(say.unknown.format(disk=disk))
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


def free_disk() -> float:
    """GiB that are free where the models are written."""
    return shutil.disk_usage(".").free / 2**30


def in_words(seconds: float, say: Phrases) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return say.seconds.format(seconds)
    return say.minutes.format(seconds / 60) if seconds < 5400 else say.hours.format(seconds / 3600)


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
