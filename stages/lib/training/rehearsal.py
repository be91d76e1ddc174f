"""A pass on the longest rows before training, so that what can't work fails in the first minute."""

from collections.abc import Callable
from typing import Any

from stages.lib.every_stage.errors import UserError
from stages.lib.hardware import device
from stages.lib.training.plan import Plan


def rehearse(
    name: str,
    trainer: Any,
    plan: Plan,
    lengths: list[int],
    dtype: Any,
    check: Callable[[dict[str, float]], dict[str, float]] = dict,
) -> dict[str, float]:
    """One forward and backward pass on the longest rows before training: what can't work fails in the first minute.

    `lengths` are those of the trainer's rows, `dtype` what it computes in. It leaves weights, random numbers and
    metrics as they were. Returns the loss and trl's other figures of the pass, as `check` returns them. Raises
    UserError if the GPU's memory is not enough, or what `check` raises. A model that is sharded (FSDP) can run in its
    trainer alone: there the first step stands in, and the figures are in the dictionary once it is taken.
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
            batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[index] for index in longest]))
            loss = trainer.compute_loss(model, batch)
            loss.backward()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"a step on the longest rows ({max(lengths)} tokens) does not fit into the GPU's memory. "
            f"Set {name}.micro_batch_size={max(1, plan.micro_batch_size // 2)} or {name}.gradient_checkpointing=always"
        ) from error
    model.zero_grad(set_to_none=True)
    metrics = getattr(trainer, "_metrics", None) or trainer._stored_metrics  # the latter in trl's ORPO
    figures = {key: float(values[-1]) for key, values in metrics["train"].items()}
    metrics["train"].clear()
    trainer._total_train_tokens = 0
    return check({"loss": float(loss.detach()), **figures})


def longest_rows(lengths: list[int], plan: Plan) -> list[int]:
    """The indices of the longest rows, as many as a pass takes."""
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])[: plan.micro_batch_size]


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
