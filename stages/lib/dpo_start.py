"""Where DPO must start: the policy is its reference, so that no pair has a margin yet."""

import math
from collections.abc import Callable

from stages.lib.every_stage.errors import UserError
from stages.lib.schema.choices import DpoLoss
from stages.lib.schema.training import Dpo

MARGIN_LIMIT = 1e-6
PRECOMPUTED_MARGIN_LIMIT = 0.2
"""References that were computed before training, in batches of another shape and before layers are compiled, differ by
bfloat16's rounding; 0.008 was seen."""
COMPILED_MARGIN_LIMIT = 0.02
"""Compiled with and without gradients, the same model rounds to bfloat16 at other places; 0.0004 was seen."""

LN_2 = math.log(2)
"""-log sigmoid(0)"""

AT_START: dict[DpoLoss, Callable[[float, float], float]] = {
    DpoLoss.sigmoid: lambda beta, smoothing: LN_2,
    DpoLoss.sigmoid_norm: lambda beta, smoothing: LN_2,
    DpoLoss.hinge: lambda beta, smoothing: 1.0,
    DpoLoss.ipo: lambda beta, smoothing: (1 / (2 * beta)) ** 2,
    DpoLoss.exo_pair: lambda beta, smoothing: -LN_2 - 0.5 * (math.log1p(-smoothing) + math.log(smoothing)),
    DpoLoss.nca_pair: lambda beta, smoothing: (1 + 0.5 + 0.5) * LN_2,
    DpoLoss.robust: lambda beta, smoothing: ((1 - smoothing) - smoothing) * LN_2 / (1 - 2 * smoothing),
    DpoLoss.bco_pair: lambda beta, smoothing: (1 + 1) * LN_2,
    DpoLoss.sppo_hard: lambda beta, smoothing: 2 * (0.5 / beta) ** 2,
    DpoLoss.aot: lambda beta, smoothing: ((1 - smoothing) + smoothing) * LN_2,
    DpoLoss.aot_unpaired: lambda beta, smoothing: ((1 - smoothing) + smoothing) * LN_2,
    DpoLoss.apo_zero: lambda beta, smoothing: (1 - 0.5) + 0.5,
    DpoLoss.apo_down: lambda beta, smoothing: 0.5 + (1 - 0.5),
    DpoLoss.discopop: lambda beta, smoothing: LN_2 * (1 - 0.5) + 1.0 * 0.5,
}
"""Each loss by trl's own formula (DPOTrainer of trl 1.16) where policy and reference are the same: every log-ratio is
0, its sigmoid 1/2, its exponential 1. Of beta and label_smoothing. `sft` isn't among them: a cross entropy starts where
the model is."""


def loss_at_start(section: Dpo) -> tuple[float, bool]:
    """What the losses of `section`, weighted as it says, add up to while nothing has been learned, and whether that is
    all: a share of `sft`, the cross entropy of the better answer, can't be known before."""
    weights = section.loss_weights or [1.0] * len(section.loss_type)
    known = [
        weight * AT_START[loss](section.beta, section.label_smoothing)
        for loss, weight in zip(section.loss_type, weights, strict=True)
        if loss is not DpoLoss.sft
    ]
    return sum(known), DpoLoss.sft not in section.loss_type


def refuse_wrong_reference(section: Dpo, figures: dict[str, float], compiled: bool) -> dict[str, float]:
    """Check the loss and margin of a pass before training, by `compiled` layers or not; return them as metrics.

    A new adapter adds nothing yet, so policy and reference agree: the reward margin is 0, and the sigmoid loss
    -log sigmoid(0) = ln 2 (Rafailov et al. 2023, arXiv 2305.18290, equation 7); other losses start as AT_START says.
    Beside a share of `sft`, which is never negative, the loss is at least that. Raises UserError otherwise: the
    reference is then another model than the one that is tuned, or the adapter does not start at zero.
    """
    margin, loss = figures["rewards/margins"], figures["loss"]
    limit = COMPILED_MARGIN_LIMIT if compiled else MARGIN_LIMIT
    if section.precompute_ref_log_probs:
        limit = PRECOMPUTED_MARGIN_LIMIT
    needed, known = loss_at_start(section)
    rounding = limit * max(1.0, abs(needed))  # IPO's and SPPO's are squares, far above 1
    fits = abs(loss - needed) <= rounding if known else loss >= needed - rounding
    if not (abs(margin) <= limit and fits):  # NaN is refused too
        names = " + ".join(loss.value for loss in section.loss_type)
        raise UserError(
            f"before the first step the reward margin is {margin:.4f} and the loss {loss:.4f}; needed 0 and "
            f"{'' if known else 'at least '}{needed:.4f}, which {names} gives where policy and reference are the same "
            "model, as they are then. Make the adapter start at zero (lora's default initialisation) and the reference "
            "the merged SFT model"
        )
    return {"step0_loss": round(loss, 6), "step0_margin": round(margin, 6)}
