"""Distillation: a model learns what another one, its teacher, says of each next token of the answers.

loss = T^2 x the mean over learned tokens of KL(teacher || student), both distributions at temperature T (Hinton et al.
2015, arXiv 1503.02531): sum of p log(p / q) over the vocabulary, in nats, p the teacher's. The teacher is a second
model, frozen. The sums are those of keep_base.py: neither model's logits of all positions are ever in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from stages.lib.every_stage.errors import UserError
from stages.lib.hardware import device
from stages.lib.models.loading import load_16bit
from stages.lib.models.logits import logits_at
from stages.lib.training.fast_path import causal_lm_of
from stages.lib.training.keep_base import (
    Holding,
    decoder_of,
    held_places,
    hold_in_forward,
    kl_by_position,
    own_logits,
)
from stages.lib.training.trl_trainer import Batch, TrlTrainer, batch_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel

    from stages.lib.models.chat import TokenRow

MARGIN = 0.05
"""Of the KL, and nats beside it: 16-bit sums in another order, as attention without a mask takes them."""


def distilling_trainer(teacher: PreTrainedModel, temperature: float) -> Any:
    """A class of trl's SFTTrainer whose loss is the divergence from what `teacher` says of the learned tokens.

    Its trainer is for `distil`, once the model is prepared.
    """
    import torch
    from trl import SFTTrainer

    class DistillingSFTTrainer(SFTTrainer):
        project: Callable[[Tensor], Tensor]

        def compute_loss(
            self,
            model: Module,
            inputs: Batch,
            return_outputs: bool = False,
            num_items_in_batch: Tensor | int | None = None,
        ) -> Any:
            mask = held_places(inputs["labels"])
            given = {name: value for name, value in inputs.items() if name != "labels"}
            # As the student's forward, whose outputs accelerate casts to float32.
            with torch.no_grad(), torch.autocast(device(), dtype, enabled=dtype is not torch.float32):
                said = decoder_of(teacher)(**given, use_cache=False).last_hidden_state[:, :-1][mask]
            hidden = model(**given, held=mask)
            divergence = diverge(hidden.to(dtype), said.to(dtype), self.project, project_teacher)
            learned = mask.sum() if num_items_in_batch is None else num_items_in_batch  # of the step, or of this pass
            return temperature**2 * divergence.sum() / learned

    diverge, dtype = kl_by_position(), teacher.dtype
    project_teacher = at_temperature(own_logits(teacher), temperature)
    return DistillingSFTTrainer


class DistillingTrainer(TrlTrainer, Protocol):
    """A trainer of distilling_trainer's class."""

    project: Callable[[Tensor], Tensor]


def at_temperature(project: Callable[[Tensor], Tensor], temperature: float) -> Callable[[Tensor], Tensor]:
    """What `project` makes of hidden states, divided by a temperature."""
    return project if temperature == 1 else lambda hidden: project(hidden) / temperature


def distil(trainer: DistillingTrainer, temperature: float) -> Any:
    """The `trainer`, of distilling_trainer's class with its model prepared, set up to see its hidden states."""
    causal_lm = causal_lm_of(trainer.model)
    trainer.project = at_temperature(own_logits(causal_lm), temperature)
    hold_in_forward(causal_lm, Holding())
    return trainer


def said_by(directory: Path, row: TokenRow, temperature: float, dtype: torch.dtype) -> Tensor:
    """What the model in `directory` says of the learned tokens of `row`, by its own forward: log p (n, vocabulary)."""
    import torch

    model = load_16bit(directory, dtype)
    ids, labels = (torch.tensor([row[name]], device=model.device) for name in ("input_ids", "labels"))
    mask = torch.nn.functional.pad(held_places(labels), (0, 1))
    with torch.inference_mode():
        return (logits_at(model, mask, input_ids=ids).float() / temperature).log_softmax(-1).clone()


def refuse_wrong_teacher(
    trainer: DistillingTrainer, row: TokenRow, said: Tensor, temperature: float, dtype: torch.dtype, directory: Path
) -> float:
    """See before training that `trainer` learns from the model in `directory`; returns the loss on `row` at the start.

    `said` is what that model says of the row (`said_by`). The trainer's loss must be its divergence from what the
    student says, computed plainly; with another teacher, the student itself say, it is not. Raises UserError otherwise.
    `dtype` is what training computes in.
    """
    import torch

    model, project = trainer.model, trainer.project
    columns: Any = {name: row[name] for name in ("input_ids", "labels")}
    model.train()
    with torch.no_grad(), torch.random.fork_rng(), torch.autocast(device(), dtype, enabled=dtype is not torch.float32):
        loss = float(trainer.compute_loss(model, batch_of(trainer, [columns])))
        batch = batch_of(trainer, [columns])
        mask = held_places(batch.pop("labels"))
        answered = project(model(**batch, held=mask).to(dtype)).float().log_softmax(-1)
    wanted = temperature**2 * float((said.exp() * (said - answered)).sum(-1).mean())
    if not abs(loss - wanted) <= MARGIN * (1 + wanted):  # NaN is refused too
        raise UserError(
            f"before the first step the loss is {loss:.3g}; needed {wanted:.3g}, the divergence from what {directory} "
            "says: what is learned from isn't that model. Rebuild it with `dvc repro`, or set heal.loss=sft"
        )
    return loss
