"""What the look at parity before training costs: seconds from the call to its figure, and the figure.

Run     python -m bench.parity [SHAPE]     one of bench.random_model's, with random weights; models/base unless given
        on a GPU: python -m bench.parity Llama-3-8B
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.random_model import write_source

LENGTHS = (512, 256, 64)
"""Tokens of the probe's rows."""


def rows_of(vocabulary: int) -> list[dict[str, list[int]]]:
    """Rows of random ids, the second half of each learned."""
    import torch

    rows = []
    for length in LENGTHS:
        ids = torch.randint(
            0, min(vocabulary, 2000), (length,), generator=torch.Generator().manual_seed(length)
        ).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * (length // 2) + ids[length // 2 :]})
    return rows


def measure(base: Path) -> dict[str, Any]:
    """Seconds and figures of SFT's and DPO's path on the model in `base`."""
    from omegaconf import OmegaConf

    from stages.lib.hardware import find_hardware, resolve_dtype, set_up_cpu
    from stages.lib.models.shape import shape_in
    from stages.lib.schema.choices import Dtype
    from stages.lib.schema.training import Sft
    from stages.lib.training.parity import path_difference
    from stages.lib.training.plan import make_plan

    set_up_cpu(0)
    hardware, rows = find_hardware(), rows_of(shape_in(base).vocabulary)
    values = {"quantization": "none", "learning_rate": 1e-4, "lr_scheduler_type": "constant", "batch_size": 8,
              "max_length": 512, "optim": "adamw_torch", "seed": 1,
              "lora": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": ["q_proj"]}}  # fmt: skip
    section: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Sft), values))
    found: dict[str, Any] = {"device": hardware.device}
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    for name, sequences in (("sft", 1), ("dpo", 2), ("sft again", 1)):  # the first imports trl, as training would
        plan = make_plan("sft", section, model, list(LENGTHS), hardware, sequences=sequences)
        began = time.monotonic()
        difference = path_difference(plan, base, rows, 0, resolve_dtype(Dtype.auto, hardware), frozen=True)
        found[name] = {
            "seconds": round(time.monotonic() - began, 2),
            "attention": plan.attention.value,
            "packed": plan.padding_free,
            "parity": difference.largest,
            "tolerance": difference.tolerance,
        }
    return found


if __name__ == "__main__":
    if len(sys.argv) < 2:
        print(measure(Path("models/base")))
        sys.exit()
    with TemporaryDirectory() as scratch:
        write_source(Path(scratch), sys.argv[1])
        print(measure(Path(scratch)))
