"""The estimate of memory against what training took: SFT steps of three model sizes, each in a process of its own.

Weights are random: memory does not depend on their values. Sizes are SmolLM2's and TinyLlama's shapes.
Run     python -m bench.memory
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.random_model import llama_config, train_tokenizer
from stages.lib.hardware import describe, set_up_cpu
from stages.lib.schema.choices import Optim, Quantization, Scheduler
from stages.lib.schema.training import Lora, Sft

SIZES = ["SmolLM2-135M", "SmolLM2-360M", "TinyLlama-1.1B"]
TOKENS, ROWS, STEPS = 512, 2, 3


def measure(name: str) -> dict[str, float]:
    """Peak memory of a few SFT steps beyond the loaded model, in MiB, and the estimate of it."""
    import torch
    import trl.trainer.sft_trainer  # noqa: F401  before memory is measured: it is not training's
    from transformers import AutoModelForCausalLM

    from stages import sft
    from stages.lib.hardware import find_hardware
    from stages.lib.training.plan import make_plan
    from stages.lib.training.run import TrainingRun

    set_up_cpu(0)
    config = llama_config(name)
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
    with TemporaryDirectory() as folder:
        sft.make_trainer(tuning, plan, rows, Path(folder)).train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"measured": peak - before, "estimated": plan.estimated_mib, "model": before}


def resident() -> float:
    """Resident memory of this process in MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        print(describe())
        for each in SIZES:
            done = subprocess.run(
                [sys.executable, "-m", "bench.memory", each], capture_output=True, text=True, check=True
            )
            row = json.loads(done.stdout.splitlines()[-1])
            ratio = row["estimated"] / row["measured"]
            print(f"{each:16} measured {row['measured']:6.0f} MiB, estimated {row['estimated']:6.0f}: {ratio:.2f}")
