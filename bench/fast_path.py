"""What each part of stages/lib/training/fast_path.py gains on a CPU: SFT steps without it, in one run.

Needs   models/base and data/prepared (run `make repro` once)
Run     python -m bench.fast_path [steps]
"""

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from omegaconf import OmegaConf

from stages import sft
from stages.lib.every_stage.entry import locked_section
from stages.lib.hardware import describe
from stages.lib.schema.choices import Choice

PARTS = {
    "attention without a mask": "stages.lib.training.fast_path.attend_without_mask",
    "head on learned positions alone": "stages.lib.training.fast_path.score_supervised_positions",
    "no casts around adapters": "stages.lib.training.fast_path.skip_adapter_casts",
    "freed memory kept": "stages.lib.hardware.keep_freed_memory",
    "4-bit weights dequantised once": None,  # a setting
}
ALL = "everything"


def seconds_per_step(steps: int, without: list[str]) -> float:
    """Median seconds of an SFT step with the default recipe, leaving out the named parts."""
    section: Any = OmegaConf.to_object(locked_section("sft"))
    section.max_steps = steps
    if "4-bit weights dequantised once" in without:
        section.dequantize_once = Choice.never
    if "attention without a mask" in without:
        section.padding_free = Choice.never
    ends: list[float] = []

    def watch(trainer: Any) -> None:
        from transformers import TrainerCallback

        class Watch(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                ends.append(time.perf_counter())

        trainer.add_callback(Watch())

    patches = [patch(target, lambda *_: None) for name in without if (target := PARTS[name])]
    patches.append(patch("stages.lib.training.run.report_progress", watch))
    with TemporaryDirectory() as scratch:
        for each in patches:
            each.start()
        sft.sft(section, Path(scratch))
    times = sorted(after - before for before, after in pairwise(ends[2:]))
    return times[len(times) // 2]


if __name__ == "__main__":
    count = sys.argv[1] if len(sys.argv) > 1 else "14"
    if len(sys.argv) > 2:  # one measurement, in a process of its own
        print(seconds_per_step(int(count), [name for name in sys.argv[2].split(";") if name]))
        sys.exit()
    print(describe())
    variants = {"nothing left out": "", ALL: ";".join(PARTS), **{name: name for name in PARTS}}
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(2):  # in turn, since the machine drifts
        for name, without in variants.items():
            command = [sys.executable, "-m", "bench.fast_path", count, without]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(float(done.stdout.splitlines()[-1]))
    best = min(found["nothing left out"])
    for name, seconds in found.items():
        print(f"without {name:32} {min(seconds):.2f} s a step: {min(seconds) / best:.2f}")
