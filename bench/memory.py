"""The estimate of memory against what training took: SFT steps of three model sizes, each in a process of its own.

Weights are random: memory does not depend on their values. Sizes are SmolLM2's and TinyLlama's shapes. A second process
of each lets torch's profiler count the tensors that live at once: what the process holds beyond them is the
allocator's.
Run     python -m bench.memory
"""

import json
import resource
import subprocess
import sys
from contextlib import nullcontext
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.random_model import config_of, train_tokenizer
from stages.lib.hardware import describe, set_up_cpu
from stages.lib.schema.choices import Optim, Quantization, Scheduler
from stages.lib.schema.training import Lora, Sft

SIZES = ["SmolLM2-135M", "SmolLM2-360M", "TinyLlama-1.1B"]
TOKENS, ROWS, STEPS = 512, 2, 3


def measure(name: str, profiled: bool) -> dict[str, float]:
    """Peak memory of a few SFT steps beyond the loaded model, in MiB, and the estimate of it.

    With `profiled` the peak is that of the tensors alone.
    """
    import torch
    import trl.trainer.sft_trainer  # noqa: F401  before memory is measured: it is not training's
    from transformers import AutoModelForCausalLM

    from stages import sft
    from stages.lib.hardware import find_hardware
    from stages.lib.training.plan import make_plan
    from stages.lib.training.run import TrainingRun

    set_up_cpu(0)
    config = config_of(name)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    section = Sft(
        quantization=Quantization.none,
        lora=Lora(r=64, lora_alpha=128, lora_dropout=0.0),
        learning_rate=1e-4,
        lr_scheduler_type=Scheduler.constant,
        max_steps=STEPS,
        batch_size=ROWS,
        max_length=TOKENS,
        micro_batch_size=ROWS,
        optim=Optim.adamw_torch_fused,
        seed=1,
    )
    rows = []
    for _ in range(ROWS * STEPS):
        ids = torch.randint(0, config.vocab_size, (TOKENS,)).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * (TOKENS // 2) + ids[TOKENS // 2 :]})
    hardware = find_hardware()
    plan = make_plan("sft", section, model, [TOKENS] * len(rows), hardware)
    tuning = TrainingRun("sft", section, Path(), hardware, 0, torch.bfloat16, {}, train_tokenizer(), model, {})
    before = resident()
    profiler = torch.profiler.profile(profile_memory=True) if profiled else nullcontext()
    with TemporaryDirectory() as folder, profiler:
        sft.make_trainer(tuning, plan, rows, Path(folder)).train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"measured": live(profiler) if profiled else peak - before, "estimated": plan.estimated_mib}


def live(profiler: Any) -> float:
    """The most MiB of tensors that lived at once, by a profiler that recorded every allocation."""
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(change for _, change in changes)) / 2**20


def resident() -> float:
    """Resident memory of this process in MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def in_a_process(*words: str) -> dict[str, float]:
    """What measure returns, of a process of its own."""
    command = [sys.executable, "-m", "bench.memory", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], profiled=len(sys.argv) > 2)))
    else:
        print(describe())
        for each in SIZES:
            took, tensors = in_a_process(each), in_a_process(each, "profiled")
            print(
                f"{each:16} measured {took['measured']:6.0f} MiB (tensors {tensors['measured']:.0f}), estimated "
                f"{took['estimated']:6.0f}: {took['estimated'] / took['measured']:.2f}",
                flush=True,
            )
