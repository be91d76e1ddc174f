"""What stages/lib/fast_path.py gains on a CPU: SFT steps with and without it, in turn, in one run.

Needs   models/base and data/prepared (run `make repro` once)
Run     python -m bench.fast_path [steps]
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from omegaconf import OmegaConf

from stages import sft
from stages.lib.entry import locked_section
from stages.lib.hardware import describe, resolve_dtype, set_up_cpu
from stages.lib.models import load_for_training, load_tokenizer
from stages.lib.plan import make_plan
from stages.lib.training_rows import supervised_rows

FAST = ["attend_without_mask", "dequantize_once", "score_supervised_positions", "skip_adapter_casts"]


def seconds_per_step(steps: int, without: list[str]) -> float:
    """Median seconds of an SFT step with the default recipe, leaving out the named parts of the fast path."""
    section: Any = OmegaConf.to_object(locked_section("sft"))
    section.max_steps = steps
    set_up_cpu(section.threads)
    dtype = resolve_dtype(section.dtype)
    tokenizer = load_tokenizer(sft.BASE)
    model = load_for_training(sft.BASE, section, dtype)
    files = {sft.ULTRACHAT / "train.jsonl": 1, sft.PDF_QA / "train.jsonl": 1}
    rows, _ = supervised_rows(section, files, tokenizer)
    plan = make_plan("sft", section, model, max(len(row["input_ids"]) for row in rows))
    patches = [patch.object(sft, name, lambda model: None) for name in without]
    with TemporaryDirectory() as scratch:
        for each in patches:
            each.start()
        trainer = sft.make_trainer(section, plan, dtype, model, tokenizer, rows, Path(scratch))
        for each in patches:
            each.stop()
        times: list[float] = []
        step = trainer.training_step

        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            result = step(*arguments, **options)
            times.append(time.perf_counter() - started)
            return result

        trainer.training_step = timed
        trainer.train()
    return sorted(times[2:])[len(times[2:]) // 2]


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    print(describe())
    rounds = [(seconds_per_step(count, FAST), seconds_per_step(count, [])) for _ in range(2)]
    for plain, fast in rounds:
        print(f"plain {plain:.2f} s, fast {fast:.2f} s a step: {plain / fast:.2f} times as fast")
    for name in FAST:
        print(f"without {name}: {seconds_per_step(count, [name]):.2f} s a step")
