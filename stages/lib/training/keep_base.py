"""Holding SFT to its base: on the chats the model keeps saying what it said before it was tuned.

Where `sft.keep_base.weight` is above 0, no row of chats is learned by cross entropy. The first `max_tokens` tokens of
its answers are held in its place, by the forward KL divergence KL(base || tuned) = sum of p log(p / q) over the
vocabulary, in nats a token: p is what the base says of the next token, q what the tuned model does (distillation of
Hinton et al. 2015, arXiv 1503.02531, at temperature 1). The base is the same model with its adapter off, so that no
second one is in memory. The loss of a step is the mean cross entropy of its learned tokens plus the weight times the
mean KL of its held ones, over the whole batch, however that is divided into passes and processes.
"""

from __future__ import annotations

import types
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from stages.lib.every_stage.errors import UserError
from stages.lib.hardware import device
from stages.lib.models.chat import IGNORED
from stages.lib.training.fast_path import causal_lm_of
from stages.lib.training.memory import HELD_ROWS
from stages.lib.training.processes import sharded
from stages.lib.training.trl_trainer import Batch, TrlTrainer, batch_of, kept_figures, take_figures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel

    from stages.lib.models.chat import TokenRow
    from stages.lib.schema.training import KeepBase
    from stages.lib.training.plan import Plan

KL = "kl_to_base"
"""What the figure is called in logs and metrics; nats a token."""

START_LIMIT = 1e-6
"""Nats. The same sums in the same order are equal to the bit; float32 sums of other shapes are not."""

COMPILED_START_LIMIT = 0.02
"""Compiled or recorded with and without gradients, the same model rounds to 16 bit at other places (as for DPO's
reference, dpo_start.py)."""

DISTURBANCES = (0.01, 0.1, 1.0)
"""Added to all weights of the adapter for a pass, to see that the tuned model moves and its base doesn't; a larger one
where what it moves is within rounding."""


def hold_to_base(rows: list[TokenRow], source: str, keep: KeepBase) -> list[TokenRow]:
    """The rows of SFT, given as id, source, input_ids and labels, with those from `source` held to the base.

    Each has `held` beside its labels: the tokens that are held, IGNORED elsewhere. Raises UserError where no row is
    from `source`, or all are.
    """
    count = sum(row["source"] == source for row in rows)
    if not 0 < count < len(rows):
        raise UserError(
            f"sft.keep_base.weight: found {keep.weight:g}, and {count} of {len(rows)} rows are chats to hold to the "
            "base; needed some of them and some rows to learn. Raise sft.max_length, change sft.mix, or set "
            "sft.keep_base.weight=0"
        )
    return [
        hold_row(row, keep.max_tokens) if row["source"] == source else {**row, "held": [IGNORED] * len(row["labels"])}
        for row in rows
    ]


def hold_row(row: TokenRow, most: int) -> TokenRow:
    """A row whose first `most` learned tokens are held and none learned; it ends there, since no later token counts."""
    places = [place for place, label in enumerate(row["labels"]) if label != IGNORED][:most]
    held = row["labels"][: places[-1] + 1]
    return {**row, "input_ids": row["input_ids"][: len(held)], "labels": [IGNORED] * len(held), "held": held}


def scored(row: TokenRow) -> TokenRow:
    """A row with labels on all that counts in the loss, learned or held; for probes of a path."""
    if "held" not in row:
        return row
    return {**row, "labels": [max(pair) for pair in zip(row["labels"], row["held"], strict=True)]}


@dataclass
class Holding:
    """What a pass holds, between the trainer, the model's forward and the loss."""

    mask: Tensor | None = None  # (batch, length - 1), of the positions whose next token is held
    base: Tensor | None = None  # (n, width), the base's last hidden states there; None: nothing is held
    divergence: Tensor | None = None  # (n), KL in nats


def holding_trainer(weight: float) -> Any:
    """A class of trl's SFTTrainer whose loss has `weight` times the KL divergence on what a batch holds.

    Its trainer is for `hold_batches`, once the model is prepared. Raises UserError where weights are sharded over
    processes (FSDP): each would have to project as often as the one that holds most.
    """
    import torch
    from trl import SFTTrainer

    if sharded():
        raise UserError(
            "sft.distributed: found weights sharded over processes (fsdp), and sft.keep_base.weight is above 0; needed "
            "ddp, where one GPU has room for the model, or none. Set sft.distributed=ddp or sft.keep_base.weight=0"
        )

    class HoldingSFTTrainer(SFTTrainer):
        holding: Holding
        passes, held_tokens = 1, 0  # of the step that is taken: its passes, and what all processes hold in them

        def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
            samples, learned = super().get_batch_samples(epoch_iterator, num_batches, device)
            if samples:
                held = torch.stack([held_places(sample["held"]).sum() for sample in samples]).sum()
                self.passes, self.held_tokens = len(samples), int(self.accelerator.gather(held.to(device)).sum())
            return samples, learned

        def compute_loss(
            self, model: Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            holding, mask = self.holding, held_places(inputs.pop("held"))
            in_training = num_items_in_batch is not None  # or in a pass before it
            passes, total = (self.passes, self.held_tokens) if in_training else (1, int(mask.sum()))
            if mask.any():
                given = {name: value for name, value in inputs.items() if name != "labels"}
                adapted: Any = self.model
                with torch.no_grad(), adapted.disable_adapter():
                    holding.mask, holding.base = mask, model(**given, held=mask)
            loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            forget_empty_means(kept_figures(self))
            if not total:
                return loss
            divergence = loss.new_zeros(()) if holding.divergence is None else holding.divergence.sum()
            holding.divergence = None
            mean = self.accelerator.gather(divergence.detach()).sum() / total
            kept_figures(self)[KL].append(float(mean) * passes)  # trl logs their mean
            processes = self.accelerator.num_processes if in_training else 1  # whose mean is taken
            return loss + weight * processes * divergence / total

    return HoldingSFTTrainer


class HoldingTrainer(TrlTrainer, Protocol):
    """A trainer of holding_trainer's class."""

    holding: Holding


def held_places(held: Tensor) -> Tensor:
    """Of a batch's `held` labels (batch, length): which positions are held by their next token (batch, length - 1)."""
    return held[:, 1:] != IGNORED


def forget_empty_means(metrics: dict[str, list[float]]) -> None:
    """Take out of trl's `metrics` the zeros that stand for means over no learned token."""
    if not metrics["entropy"][-1]:
        for name in ("entropy", "mean_token_accuracy"):
            metrics[name].pop()
            if not metrics[name]:
                del metrics[name]


def hold_batches(trainer: HoldingTrainer) -> HoldingTrainer:
    """The `trainer`, of holding_trainer's class with its model prepared, set up to hold what its rows say."""
    causal_lm = causal_lm_of(trainer.model)
    trainer.holding = Holding()
    hold_in_forward(causal_lm, trainer.holding)
    collate = trainer.data_collator

    def collate_held(rows: list[TokenRow]) -> dict[str, Any]:
        held = collate([{"input_ids": row["input_ids"], "labels": row["held"]} for row in rows])
        return {**collate(rows), "held": held["labels"]}  # padded, packed and filled up as the labels are

    trainer.data_collator = collate_held
    return trainer


def hold_in_forward(causal_lm: PreTrainedModel, holding: Holding) -> None:
    """Let the model's forward, whatever its head is by now, give what `holding` needs.

    With `held` it returns the last hidden states (n, width) at those positions, and no logits. Without, where
    `holding` has the base's, it puts the divergence there and returns what it did before.
    """
    plain = causal_lm.forward
    project = own_logits(causal_lm)
    diverge = kl_by_position()

    def forward(self: Any, *args: Any, held: Tensor | None = None, **kwargs: Any) -> Any:
        if held is not None:
            kwargs.pop("labels", None)
            kwargs["use_cache"] = False
            return decoder_of(self)(*args, **kwargs).last_hidden_state[:, :-1][held]
        base, holding.base = holding.base, None  # a head may ask the model for its own logits meanwhile
        if base is None:
            return plain(*args, **kwargs)
        states: list[Tensor] = []
        handle = decoder_of(self).register_forward_hook(lambda *call: states.append(call[-1].last_hidden_state))
        try:
            output = plain(*args, **kwargs)
        finally:
            handle.remove()
        hidden = states[0][:, :-1][holding.mask]
        holding.divergence = diverge(hidden, base.to(hidden.dtype), project, project)
        return output

    causal_lm.forward = types.MethodType(forward, causal_lm)


def decoder_of(causal_lm: PreTrainedModel) -> PreTrainedModel:
    """What gives `causal_lm` its last hidden states: get_decoder, but for models that name themselves (Llama-4)."""
    from transformers import PreTrainedModel

    decoder = causal_lm.get_decoder()
    if decoder is causal_lm:
        return next(child for child in causal_lm.children() if isinstance(child, PreTrainedModel))
    return decoder


def own_logits(causal_lm: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """A function of last hidden states (n, width): their logits (n, vocabulary) by the model's own forward.

    The decoder is left out of it. Scales and caps that a family puts on its logits are part of it.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPast

    class HiddenStates(BaseModelOutputWithPast):
        """What a decoder gives besides, such as what routers of experts said, is not there."""

        def __getattr__(self, name: str) -> None:
            if name.startswith("_"):
                raise AttributeError(name)

    plain, decoder = type(causal_lm).forward, decoder_of(causal_lm)

    def project(hidden: Tensor) -> Tensor:
        own = vars(decoder).get("forward")
        decoder.forward = lambda *_, **__: HiddenStates(last_hidden_state=hidden[None])
        try:
            logits: Tensor = plain(causal_lm, inputs_embeds=hidden[None], use_cache=False).logits[0]
            return logits
        finally:
            del decoder.forward
            if own is not None:
                decoder.forward = own

    return project


def kl_by_position() -> Callable[..., Tensor]:
    """A function of tuned and base hidden states (n, width each) and of what projects each: KL(base || tuned) (n).

    HELD_ROWS positions have logits at a time, and their gradient is ready in the forward pass, since that of the KL
    with respect to the tuned logits is q - p: both models' logits of all positions are never in memory. In float32.
    """
    import torch

    class Divergence(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any,
            hidden: Tensor,
            base: Tensor,
            project: Callable[[Tensor], Tensor],
            project_base: Callable[[Tensor], Tensor],
        ) -> Tensor:
            gradient = torch.empty_like(hidden)
            divergence = hidden.new_empty(len(hidden), dtype=torch.float32)
            for start in range(0, len(hidden), HELD_ROWS):
                rows = slice(start, start + HELD_ROWS)
                with torch.no_grad():
                    base_log = project_base(base[rows]).float().log_softmax(-1)
                with torch.enable_grad():
                    states = hidden[rows].detach().requires_grad_()
                    logits = project(states)
                tuned_log = logits.detach().float().log_softmax(-1)
                shares = base_log.exp()
                divergence[rows] = torch.einsum("nv,nv->n", shares, base_log.sub_(tuned_log))
                difference = tuned_log.exp_().sub_(shares)
                (gradient[rows],) = torch.autograd.grad(logits, states, difference.to(logits.dtype))
            ctx.save_for_backward(gradient)
            return divergence

        @staticmethod
        def backward(ctx: Any, grad_divergence: Tensor) -> tuple[Tensor, None, None, None]:
            (gradient,) = ctx.saved_tensors
            return gradient * grad_divergence[:, None].to(gradient.dtype), None, None, None

    return Divergence.apply


def refuse_wrong_teacher(trainer: TrlTrainer, plan: Plan, dtype: torch.dtype) -> float:
    """See before training that `trainer` holds to its base; returns the KL at the start, in nats a token.

    A new adapter adds nothing yet, so the KL is 0; with an adapter that is disturbed it isn't, unless what stands for
    the base has the adapter, too. Weights and metrics are left as they were. Raises UserError otherwise. `dtype` is
    what training computes in.
    """
    import torch

    rows = trainer.train_dataset
    held = max(range(len(rows)), key=lambda index: int((rows[index]["held"] != IGNORED).sum()))
    batch = [rows[held]] * (plan.micro_batch_size if plan.cuda_graphs else 1)  # a shape that is recorded anyway

    def divergence() -> float:
        with torch.random.fork_rng(), torch.autocast(device(), dtype, enabled=dtype is not torch.float32):
            trainer.compute_loss(trainer.model, batch_of(trainer, batch))
        return take_figures(trainer)[KL]

    trainer.model.train()
    start = divergence()
    limit = COMPILED_START_LIMIT if plan.torch_compile or plan.cuda_graphs else START_LIMIT
    if not abs(start) <= limit:  # NaN is refused too
        raise UserError(
            f"before the first step the KL divergence to the base is {start:.2g} nats a token; needed 0, since the "
            "tuned model is its base then. Make the adapter start at zero (lora's default initialisation) and the "
            "base deterministic (a model whose own dropout is 0), or set sft.keep_base.weight=0"
        )
    for size in DISTURBANCES:
        with disturbed(trainer.model, size):
            moved = divergence()
        if moved > max(start, limit):
            return start
    raise UserError(
        f"with a disturbed adapter the KL divergence to the base is {moved:.2g} nats a token, with a new one "
        f"{start:.2g}; needed more, since the base doesn't have the adapter. Set sft.keep_base.weight=0"
    )


def held_figures(trainer: TrlTrainer, rows: list[TokenRow], start: float) -> dict[str, float]:
    """For the metrics: the KL to the base at the `start` and at the end of training, and how much `rows` hold."""
    tokens = [sum(label != IGNORED for label in row["held"]) for row in rows]
    logged = [entry[KL] for entry in trainer.state.log_history if KL in entry]
    return {
        f"{KL}_start": start,
        KL: round(float(logged[-1]), 6) if logged else 0.0,
        "held_rows": sum(count > 0 for count in tokens),
        "held_tokens": sum(tokens),
    }


@contextmanager
def disturbed(model: Module, size: float) -> Iterator[None]:
    """`model` with `size` added to all weights of its adapter."""
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in trained]
    try:
        with torch.no_grad():
            for parameter in trained:
                parameter.add_(size)
        yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(trained, before, strict=True):
                parameter.copy_(values)
