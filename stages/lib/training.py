"""What SFT and DPO share around trl's trainers: arguments, plan, adapter, log."""

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.lib.hardware import available_memory, device
from stages.lib.schema import Checkpointing, Quantization, Training

CPU_MICRO_BATCH_TOKENS = 4096
GPU_MICRO_BATCH_TOKENS = 16384
"""Tokens of one forward pass, by the longest row. Larger ones did not get faster on two cores and need more memory."""

ADAPTER_BASE = "models/base"
"""What adapter_config.json names as its base: neutral, since an absolute path would change the adapter's hash."""


@dataclass
class Plan:
    """Decisions that change speed and memory alone; kept in the run record."""

    micro_batch_size: int  # rows per forward pass
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    dequantize_once: bool  # keep 16-bit values of 4-bit weights
    optim: str


def make_plan(section: Training, model: Any, longest: int) -> Plan:
    """Decide from the hardware found how one optimizer step of `section.batch_size` rows is computed.

    `longest` is the longest row in tokens. Micro-batch times accumulation is always the batch size.
    """
    on_cpu = device() == "cpu"
    budget = CPU_MICRO_BATCH_TOKENS if on_cpu else GPU_MICRO_BATCH_TOKENS
    most = section.micro_batch_size or max(1, budget // longest)
    micro = max(rows for rows in range(1, section.batch_size + 1) if section.batch_size % rows == 0 and rows <= most)
    checkpointing = section.gradient_checkpointing is Checkpointing.always
    # Two bytes a parameter, where they are at most a quarter of what is free.
    dequantize_once = (
        on_cpu and section.quantization is Quantization.nf4 and 2 * model.num_parameters() < available_memory() / 4
    )
    # Paging is a GPU affair; on a CPU bitsandbytes runs its plain AdamW instead, slower than torch's.
    optim = "adamw_torch_fused" if on_cpu and section.optim == "paged_adamw_32bit" else section.optim
    return Plan(micro, section.batch_size // micro, checkpointing, dequantize_once, optim)


def trainer_arguments(section: Training, plan: Plan, dtype: Any, scratch: Path) -> dict[str, Any]:
    """The arguments that trl.SFTConfig and trl.DPOConfig have in common, by their own names."""
    import torch

    return {
        "output_dir": str(scratch),
        "per_device_train_batch_size": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "optim": plan.optim,
        "learning_rate": section.learning_rate,
        "lr_scheduler_type": section.lr_scheduler_type,
        "warmup_steps": section.warmup_steps,
        "num_train_epochs": section.num_train_epochs,
        "max_steps": section.max_steps,
        "adam_beta2": section.adam_beta2,
        "weight_decay": section.weight_decay,
        "max_grad_norm": section.max_grad_norm,
        "logging_steps": section.logging_steps,
        "seed": section.seed,
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
        "use_cpu": device() == "cpu",
        "dataloader_pin_memory": device() == "cuda",
        "save_strategy": "no",
        "report_to": "none",
    }


def lora_config(section: Training) -> Any:
    """The peft configuration of a new adapter."""
    from peft import LoraConfig

    return LoraConfig(
        r=section.lora.r,
        lora_alpha=section.lora.lora_alpha,
        lora_dropout=section.lora.lora_dropout,
        bias=section.lora.bias,  # type: ignore[arg-type]
        target_modules=sorted(section.lora.target_modules),
        task_type="CAUSAL_LM",
    )


def keep_adapter_in_float32(model: Any) -> None:
    """Undo trl's cast of the adapters of quantised models to bfloat16, where small updates would round to nothing."""
    import torch

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def save_adapter(model: Any, out: Path) -> None:
    """Save a trained adapter so that equal adapters have equal bytes: sorted modules, no paths, no model card."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = ADAPTER_BASE
        config.target_modules = sorted(config.target_modules)
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)


def copy_tokenizer(base: Path, out: Path) -> None:
    """Copy the tokenizer and chat template of `base`: what trains, merges and talks reads the same files."""
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "chat_template.jinja",
    ):
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)


def write_log(history: list[dict[str, float]], path: Path, columns: dict[str, str]) -> None:
    """Write the trainer's log as CSV for `dvc plots`: one row a logged step; `columns` maps names to the log's keys."""
    rows = [entry for entry in history if "loss" in entry]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *columns])
        for entry in rows:
            writer.writerow([int(entry["step"]), *(round(float(entry[key]), 6) for key in columns.values())])
