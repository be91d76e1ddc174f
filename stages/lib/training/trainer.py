"""What the training stages share around trl's trainers: arguments, adapter, a rehearsal, the log."""

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.lib.errors import UserError
from stages.lib.hardware import device
from stages.lib.schema.choices import Method
from stages.lib.schema.training import Training
from stages.lib.training.plan import Plan

ADAPTER_BASE = "models/base"
"""What adapter_config.json names as its base: neutral, since an absolute path would change the adapter's hash."""


def trainer_arguments(name: str, section: Training, plan: Plan, dtype: Any, folder: Path) -> dict[str, Any]:
    """The arguments that trl.SFTConfig and trl.DPOConfig have in common, by their own names."""
    import torch

    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "optim": plan.optim,
        "learning_rate": section.learning_rate,
        "lr_scheduler_type": section.lr_scheduler_type.value,
        "warmup_steps": section.warmup_steps,
        "num_train_epochs": section.num_train_epochs,
        "max_steps": section.max_steps,
        "adam_beta2": section.adam_beta2,
        "weight_decay": section.weight_decay,
        "max_grad_norm": section.max_grad_norm,
        "logging_nan_inf_filter": False,  # it would log a broken loss as 0, and wait for the GPU to know
        "logging_steps": 1,  # write_log makes means of section.logging_steps: a resumed run gives the same ones
        "seed": section.seed,
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
        "use_cpu": device() == "cpu",
        "dataloader_pin_memory": device() == "cuda",
        "ddp_find_unused_parameters": False,  # an adapter's are all used; looking for others costs a pass
        "ddp_broadcast_buffers": False,  # a language model's never change
        "disable_tqdm": True,  # report_progress prints a line now and then
        "save_strategy": "no",  # checkpoints.py saves by time
        "save_total_limit": 2,
        "report_to": [tracker.value for tracker in section.report_to] or "none",
        "run_name": name,
        "project": "graft",  # trackio's
    }


def lora_config(section: Training) -> Any:
    """The peft configuration of a new adapter; None where the weights themselves are trained."""
    from peft import LoraConfig

    if section.method is Method.full:
        return None
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


def keep_losses_in_float32(trainer: Any, dtype: Any) -> None:
    """Undo accelerate's cast of what a spread model (FSDP) returns, and of its gradients' sums, to a 16-bit `dtype`.

    Log-probabilities and losses would keep three digits, and DPO's margins are differences of them.
    """
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy

    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, output_dtype=None)
    trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = policy


def save_adapter(model: Any, out: Path, weights: dict[str, Any] | None = None) -> None:
    """Save a trained adapter so that equal adapters have equal bytes: sorted modules, no paths, no model card.

    `weights` are its tensors by name where the model itself has only a part of them.
    """
    for config in model.peft_config.values():
        config.base_model_name_or_path = ADAPTER_BASE
        config.target_modules = sorted(config.target_modules)
    model.save_pretrained(out, state_dict=weights)
    (out / "README.md").unlink(missing_ok=True)


def write_log(history: list[dict[str, float]], path: Path, columns: dict[str, str], every: int) -> None:
    """Write the trainer's log as CSV for `dvc plots`: a row for each `every` steps, the means over them.

    `columns` maps the file's names to the log's keys.
    """
    rows = [entry for entry in history if "loss" in entry]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *columns])
        for start in range(0, len(rows), every):
            window = rows[start : start + every]
            means = (sum(float(row[key]) for row in window) / len(window) for key in columns.values())
            writer.writerow([int(window[-1]["step"]), *(round(mean, 6) for mean in means)])


def report_progress(trainer: Any, every: int) -> None:
    """Print the loss and the pace each `every` steps, instead of the trainer's dictionary at every step."""
    from transformers import PrinterCallback, TrainerCallback

    class Report(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.began, self.first = time.monotonic(), state.global_step

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs and (state.global_step % every == 0 or state.global_step == state.max_steps):
                pace = (time.monotonic() - self.began) / (state.global_step - self.first)
                loss = f"loss {float(logs['loss']):.4f}, {pace:.2f} s a step"
                print(f"{args.run_name}: step {state.global_step} of {state.max_steps}, {loss}", flush=True)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Report())


def refuse_broken_steps(name: str, trainer: Any) -> None:
    """Stop a trl trainer with a UserError after a step whose loss or gradient is no finite number.

    From there on every weight that is trained is lost. A gradient that overflows in float16 is none of these: the
    scaler leaves such a step out.
    """
    from transformers import TrainerCallback

    class Refuse(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            figures = {"loss": logs.get("loss", 0.0), "norm of the gradient": logs.get("grad_norm", 0.0)}
            if args.fp16:
                del figures["norm of the gradient"]
            for what, value in figures.items():
                if not math.isfinite(value):
                    precision = f", or set {name}.dtype=bfloat16 or float32" if args.fp16 else ""
                    raise UserError(
                        f"{name}: found a {what} of {value} in step {state.global_step}, needed a finite number; "
                        f"nothing was published. Lower {name}.learning_rate (it is {args.learning_rate:g}){precision}"
                    )

    trainer.add_callback(Refuse())


def rehearse(
    name: str,
    trainer: Any,
    plan: Plan,
    lengths: list[int],
    check: Callable[[dict[str, float]], dict[str, float]] = dict,
) -> dict[str, float]:
    """One forward and backward pass on the longest rows before training: what can't work fails in the first minute.

    `lengths` are those of the trainer's rows. It leaves weights, random numbers and metrics as they were. Returns the
    loss and trl's other figures of the pass, as `check` returns them. Raises UserError if the GPU's memory is not
    enough, or what `check` raises. A model that is spread over processes (FSDP) can run in its trainer alone: there
    the first step stands in, and the figures are in the dictionary once it is taken.
    """
    import torch

    if plan.sharded:
        print(f"{name}: with fsdp the first step is its own rehearsal", flush=True)
        return first_step(trainer, check)

    longest = sorted(range(len(lengths)), key=lambda index: -lengths[index])[: plan.micro_batch_size]
    model = trainer.model
    model.train()
    try:
        with torch.random.fork_rng(), torch.autocast(device(), enabled=trainer.args.bf16 or trainer.args.fp16):
            batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[index] for index in longest]))
            loss = trainer.compute_loss(model, batch)
            loss.backward()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{name}: a step on the longest rows ({max(lengths)} tokens) does not fit into the GPU's memory. "
            f"Set {name}.micro_batch_size={max(1, plan.micro_batch_size // 2)} or {name}.gradient_checkpointing=always"
        ) from error
    model.zero_grad(set_to_none=True)
    metrics = getattr(trainer, "_metrics", None) or trainer._stored_metrics  # the latter in trl's ORPO
    figures = {key: float(values[-1]) for key, values in metrics["train"].items()}
    metrics["train"].clear()
    trainer._total_train_tokens = 0
    return check({"loss": float(loss.detach()), **figures})


def first_step(trainer: Any, check: Callable[[dict[str, float]], dict[str, float]]) -> dict[str, float]:
    """The figures that the trainer's first step will log before it changes a weight, as `check` returns them."""
    from transformers import TrainerCallback

    figures: dict[str, float] = {}

    class Check(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not figures:  # a run that goes on has the first step in its history
                figures.update(check({key: float(value) for key, value in state.log_history[0].items()}))

    trainer.add_callback(Check())
    return figures
