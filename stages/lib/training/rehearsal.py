"""A pass on the longest rows before training, so that what can't work fails in the first minute."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from stages.lib.every_stage.errors import UserError
from stages.lib.hardware import device
from stages.lib.training.plan import Plan
from stages.lib.training.trl_trainer import TrlTrainer, batch_of, take_figures

if TYPE_CHECKING:
    import torch
    from transformers import TrainerControl, TrainerState, TrainingArguments


def rehearse(
    name: str,
    trainer: TrlTrainer,
    plan: Plan,
    lengths: list[int],
    dtype: torch.dtype,
    check: Callable[[dict[str, float]], dict[str, float]] = dict,
) -> dict[str, float]:
    """One forward and backward pass on the longest rows before training: what can't work fails in the first minute.

    `lengths` are those of the trainer's rows, `dtype` what it computes in. It leaves weights, random numbers and
    metrics as they were. Returns the loss and trl's other figures of the pass, as `check` returns them. Raises
    UserError if the GPU's memory is not enough, or what `check` raises. A model that is sharded (FSDP) can run in its
    trainer alone: there the first step takes its place, and the figures are in the dictionary once it is taken.
    """
    import torch

    if plan.sharded:
        print(f"{name}: with fsdp the first step is its own rehearsal", flush=True)
        return first_step(trainer, check)

    longest = longest_rows(lengths, plan)
    model = trainer.model
    model.train()
    try:
        with torch.random.fork_rng(), torch.autocast(device(), dtype, enabled=dtype is not torch.float32):
            batch = batch_of(trainer, [trainer.train_dataset[index] for index in longest])
            loss = trainer.compute_loss(model, batch)
            loss.backward()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"a step on the longest rows ({max(lengths)} tokens) does not fit into the GPU's memory. "
            f"Set {name}.micro_batch_size={max(1, plan.micro_batch_size // 2)} or {name}.gradient_checkpointing=always"
        ) from error
    model.zero_grad(set_to_none=True)
    return check({"loss": float(loss.detach()), **take_figures(trainer)})


def longest_rows(lengths: list[int], plan: Plan) -> list[int]:
    """The indices of the longest rows, as many as a pass takes."""
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])[: plan.micro_batch_size]


def first_step(trainer: TrlTrainer, check: Callable[[dict[str, float]], dict[str, float]]) -> dict[str, float]:
    """The figures that the trainer's first step will log before it changes a weight, as `check` returns them."""
    from transformers import TrainerCallback

    figures: dict[str, float] = {}

    class Check(TrainerCallback):
        def on_log(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            **_: object,
        ) -> None:
            if not figures:  # a run that resumes has the first step in its history
                figures.update(check({key: float(value) for key, value in state.log_history[0].items()}))

    trainer.add_callback(Check())
    return figures
