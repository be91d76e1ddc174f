"""What the checksums of models and checkpoints cost beside a run of the default chain.

Sizes are those that dvc.lock records. Counted is every model directory that a stage reads or makes, and a checkpoint of
each five minutes of training with its optimizer (twice the adapter). Each file is read from memory, as a stage that
loads it finds it, and processor time is told, which other programs on the machine hardly change.

Run     python -m bench.checksums --seconds 1198      --seconds: of the whole `dvc repro`; without it metrics/runs says
"""

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from stages.lib.every_stage.lineage import file_sha256

MODELS = "models/"
CHECKPOINT_SECONDS = 300
TRAINED = {"sft": "models/sft", "dpo": "models/dpo"}
UNHASHED = {"prepare-ultrachat", "prepare-pdf-qa", "prepare-preferences", "benchmark"}
UNHASHED |= {"preference", "merge-preference", "reward", "rl", "merge-rl", "quantize"}
UNHASHED |= {"prune", "heal", "merge-heal"}
"""Stages that read a tokenizer alone, and those that are off."""


def sizes(lock: dict[str, Any]) -> list[tuple[str, int]]:
    """Stage and bytes of each model that a stage of dvc.lock reads or writes."""
    return [
        (f"{stage} {entry['path']}", entry["size"])
        for stage, entries in lock["stages"].items()
        for entry in [*entries.get("deps", []), *entries.get("outs", [])]
        if stage not in UNHASHED and entry["path"].startswith(MODELS) and entry["path"].count("/") == 1
    ]


def checkpoints(lock: dict[str, Any], seconds: dict[str, float]) -> list[tuple[str, int]]:
    """Stage and bytes of the checkpoints that its seconds of training make."""
    return [
        (f"{stage} checkpoint", 3 * out["size"])
        for stage, path in TRAINED.items()
        for out in lock["stages"][stage]["outs"]
        if out["path"] == path
        for _ in range(1 + int(seconds.get(stage, 0) // CHECKPOINT_SECONDS))
    ]


def seconds_of(folder: Path) -> dict[str, float]:
    """Seconds of each stage's process in the run records of a folder."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return {record["stage"]: record["process_seconds"] for record in records}


def hashing(sizes: set[int], scratch: Path) -> dict[int, float]:
    """Processor seconds to hash a file of each size, the least of three."""
    found = {}
    for size in sizes:
        took = []
        for number in range(3):
            path = scratch / f"{size}.{number}"
            path.write_bytes(os.urandom(min(size, 2**20)) * (size // 2**20 or 1))
            began = time.process_time()
            file_sha256(path)
            took.append(time.process_time() - began)
            path.unlink()
        found[size] = min(took)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float)
    options = parser.parse_args()
    lock = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))
    seconds = seconds_of(Path("metrics/runs"))
    whole = options.seconds or sum(seconds.values())
    hashed = [*sizes(lock), *checkpoints(lock, seconds or dict.fromkeys(TRAINED, whole))]
    with TemporaryDirectory() as scratch:
        each = hashing({size for _, size in hashed}, Path(scratch))
    took = sum(each[size] for _, size in hashed)
    gibibytes = sum(size for _, size in hashed) / 2**30
    print(f"{gibibytes:.1f} GiB in {len(hashed)} models and checkpoints: {took:.1f} s of a processor")
    if whole:
        print(f"{100 * took / whole:.2f} % of {whole:.0f} s")
