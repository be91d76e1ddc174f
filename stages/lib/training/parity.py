"""Is the fast path the model's own arithmetic? Asked before training, on real rows, token by token.

A mean loss hides a wrong attention window: one was off by 0.0006 with logits off by 1. So every supervised token's
log-probability is computed by transformers' own model, each row by itself, and by the path that the plan chose. Where
they differ, a piece of the path is ruled out and the plan made again. That knows no family: whatever a model does that
the fast path doesn't do is a difference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.errors import FOREIGN, UserError
from stages.lib.models.chat import IGNORED
from stages.lib.models.chat import Labelled as Row
from stages.lib.models.logits import logits_at
from stages.lib.training.attention import attend_without_mask, attention_of
from stages.lib.training.cuda_graphs import fill_up
from stages.lib.training.decisions import Attention, Head
from stages.lib.training.head import project_by
from stages.lib.training.shortened import load_shortened

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from stages.lib.training.plan import Plan
    from stages.lib.training.trl_trainer import Batch

TOLERANCE = 1e-3
"""Nats. The same sums in float32 in another order are 1e-6 to 1e-5 apart."""

TOLERANCE_16_BIT = 0.02
"""Nats, at least, where the run's own 16-bit arithmetic is compared."""

MOST_TOKENS = 512
"""Supervised tokens of a row that are compared: the logits of each take the size of the vocabulary."""

FIRST_TOKENS = 32
"""Of a row, compared whether they are supervised or not."""

EAGER_TOKENS = 1024
"""Of a row on which transformers' two implementations are compared: eager attention keeps all pairs of tokens."""


@dataclass(frozen=True)
class Difference:
    """Between the log-probabilities of two paths, over the supervised tokens of a probe."""

    largest: float  # nats; infinite where a path can't be taken
    tolerance: float
    tokens: int
    error: str = ""  # of the path that can't be taken

    def accepted(self) -> bool:
        return self.largest <= self.tolerance  # NaN isn't

    def __str__(self) -> str:
        return self.error or f"log-probabilities differ by up to {self.largest:.2g}, tolerance {self.tolerance:.2g}"


def path_difference(plan: Plan, base: Path, rows: list[Row], pad: int, dtype: torch.dtype, frozen: bool) -> Difference:
    """How far the path of `plan` is from the model's own, on a float32 copy of its first layers (see shortened.py).

    The probe is the longest of `rows`, since a window shows on longer rows alone, the shortest and the median one.
    `pad` is the padding token, `dtype` what training computes in, `frozen` whether the weights are. Flash attention
    computes in 16 bit: there the tolerance is twice what this dtype makes of the model's own path.
    """
    import torch

    probe = probe_rows(rows)
    model = load_shortened(base, torch.float32).requires_grad_(not frozen)
    wanted = each_by_itself(model, probe, pad)
    tolerance = TOLERANCE
    if plan.attention is Attention.varlen:
        with torch.autocast(wanted.device.type, dtype):
            rounded = each_by_itself(model, probe, pad)
        tolerance = max(tolerance, 2 * float((rounded - wanted).abs().max()))
    try:
        found = by_path(model, plan, probe, pad, dtype)
    except FOREIGN as error:
        return Difference(float("inf"), tolerance, len(wanted), f"{type(error).__name__}: {error}".splitlines()[0])
    return Difference(float((found - wanted).abs().max()), tolerance, len(wanted))


def rule_out(
    plan: Plan, found: Difference, base: Path, rows: list[Row], pad: int, dtype: torch.dtype
) -> dict[str, str]:
    """The piece of the `plan`'s path that isn't the model's own arithmetic, by its name in the plan, and why.

    `found` is the difference of the whole path; see path_difference for the rest. Raises UserError where nothing is
    left: rows in a batch differ from each by itself in the model's own arithmetic.
    """
    why = f"not {{}}: {found}"
    if plan.head is not Head.model:
        by_logits = path_difference(replace(plan, head=Head.model), base, rows, pad, dtype, frozen=True)
        if by_logits.accepted():
            return {f"head={plan.head.value}": why.format(plan.head.value)}
    if plan.padding_free:
        return {"padding_free": why.format("packed")}
    if plan.attention is not Attention.model:
        return {"attention": why.format(plan.attention.value)}
    raise UserError(
        f"{base}: rows padded in a batch don't give what each gives by itself, by transformers' own code ({found}): "
        "nothing is left that trains this model as it is. Set micro_batch_size=1 where only padding is at fault, or "
        "choose another model; its family may need a newer transformers"
    )


def probe_rows(rows: list[Row]) -> list[Row]:
    """The shortest, the longest and the median row, in this order, each with at most MOST_TOKENS of its labels.

    Where there are conversations and raw text, the longest of either is among them.
    """
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
    longest = {bool(rows[index].get("raw")): index for index in order}.values()
    picked = dict.fromkeys([order[0], order[-1], order[len(order) // 2], *longest])
    return [thinned(rows[index]) for index in picked]


def thinned(row: Row, most: int = MOST_TOKENS, first: int = FIRST_TOKENS) -> Row:
    """A row with at most `most` of its labels, evenly spaced and with the last, and labels on its `first` tokens.

    The latter are prompts for the most part, but what a row sees of the one that is packed before it shows there first.
    """
    said = [index for index, label in enumerate(row["labels"]) if label != IGNORED]
    kept = {*said[:: -max(1, -(-len(said) // most))], *range(1, first)}
    labels = [token if index in kept else IGNORED for index, token in enumerate(row["input_ids"])]
    return {"input_ids": list(row["input_ids"]), "labels": labels}


def answered_rows(pairs: list[dict[str, list[int]]]) -> list[Row]:
    """Preference pairs as rows, in trl's order: each prompt with its chosen answer, then each with its rejected one."""
    return [
        {"input_ids": pair["prompt_ids"] + pair[side], "labels": [IGNORED] * len(pair["prompt_ids"]) + pair[side]}
        for side in ("chosen_ids", "rejected_ids")
        for pair in pairs
    ]


def each_by_itself(model: PreTrainedModel, rows: list[Row], pad: int) -> Tensor:
    """Log-probabilities of the rows' labels (n), each row computed alone by the model's own forward."""
    import torch

    return torch.cat([log_probs_of(model, collated([row], pad, packed=False)) for row in rows])


def by_path(model: PreTrainedModel, plan: Plan, rows: list[Row], pad: int, dtype: torch.dtype) -> Tensor:
    """As each_by_itself, by the path of `plan`: rows in its batches, its attention, its head. It changes the model."""
    import torch
    from trl.trainer.utils import add_fused_lm_head

    if plan.attention is not Attention.model:
        attend_without_mask(model, plan, dtype)
    if plan.head is not Head.model:
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
        project_by(model, plan.head)
    together = plan.micro_batch_size * plan.sequences
    found = []
    for start in range(0, len(rows), together):
        batch = collated(rows[start : start + together], pad, plan.padding_free, plan.pad_to_multiple_of)
        if plan.head is Head.model:
            found.append(log_probs_of(model, batch))
            continue
        batch = {name: on_device(value, model.device) for name, value in batch.items()}
        with torch.no_grad():
            output = model(**batch, use_cache=False, fused_lm_head=True)
        found.append(output.log_probs[output.label_mask])
    with torch.no_grad():  # dropout of attention weights is there in training alone
        two: Row = {"input_ids": rows[0]["input_ids"][:2], "labels": rows[0]["labels"][:2]}
        tiny = collated([two], pad, plan.padding_free)
        tiny.pop("labels")
        model.train()(**{name: on_device(value, model.device) for name, value in tiny.items()}, use_cache=False)
    model.eval()
    return torch.cat(found).float()


def collated(rows: list[Row], pad: int, packed: bool, multiple: int | None = None) -> dict[str, Any]:
    """A batch as trl's collator gives it to the model."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate = DataCollatorForLanguageModeling(pad, padding_free=packed, pad_to_multiple_of=multiple)
    return collate(rows)


def log_probs_of(causal_lm: PreTrainedModel, batch: Batch, learning: bool = False) -> Tensor:
    """Log-probabilities of a batch's labels (n), by the model's own forward; only their logits are made.

    `learning` says that the pass could be followed by a backward pass, as a recorded one is.
    """
    import torch

    given = {name: on_device(value, causal_lm.device) for name, value in batch.items() if name != "labels"}
    labels = batch["labels"].to(causal_lm.device)
    labels = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], dim=1)  # of the next token
    said = labels != IGNORED
    with torch.set_grad_enabled(learning):
        logits = logits_at(causal_lm, said, **given).detach().float()
    return logits.log_softmax(-1).gather(-1, labels[said][:, None])[:, 0]


@dataclass(frozen=True)
class OwnPass:
    """What a whole model says by itself in the run's own arithmetic, before anything of it is compiled or recorded."""

    rows: list[Row]
    pad: int
    dtype: torch.dtype
    log_probs: Tensor
    tolerance: float

    def difference(self, causal_lm: PreTrainedModel, plan: Plan) -> Difference:
        """How far the prepared model is from it, by the plan's own kind of batch; its adapter still adds nothing."""
        import torch

        batch = collated(self.rows, self.pad, plan.padding_free, plan.pad_to_multiple_of)
        if plan.cuda_graphs and plan.padding_free:
            batch = fill_up(batch)
        with torch.autocast(causal_lm.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            found = log_probs_of(causal_lm, batch, learning=True)
        largest = float((found - self.log_probs).abs().max())
        return Difference(largest, self.tolerance, len(found))


def own_pass(causal_lm: PreTrainedModel, rows: list[Row], pad: int, dtype: torch.dtype) -> OwnPass:
    """Log-probabilities of labels of `rows` by the whole model's own attention, computing in `dtype`.

    16-bit arithmetic rounds elsewhere in another implementation. How much that makes is the tolerance: twice what
    transformers' eager attention differs from the model's own by, on the longest row.
    """
    import torch

    rows = [thinned(row, max(1, MOST_TOKENS // len(rows)), first=0) for row in rows]
    ids = max((row["input_ids"] for row in rows), key=len)[:EAGER_TOKENS]
    longest = thinned({"input_ids": ids, "labels": ids}, first=0)
    own = attention_of(causal_lm)
    with torch.autocast(causal_lm.device.type, dtype, enabled=dtype is not torch.float32):
        log_probs = each_by_itself(causal_lm, rows, pad)
        plain = each_by_itself(causal_lm, [longest], pad)
        causal_lm.set_attn_implementation("eager")
        apart = float((each_by_itself(causal_lm, [longest], pad) - plain).abs().max())
        causal_lm.set_attn_implementation(own)
    return OwnPass(rows, pad, dtype, log_probs, max(TOLERANCE_16_BIT, 2 * apart))


def on_device(value: object, device: torch.device) -> Any:
    """A tensor of a batch on `device`; other values as they are."""
    import torch

    return value.to(device) if isinstance(value, torch.Tensor) else value
