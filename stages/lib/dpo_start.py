"""Where DPO must start: the policy is its reference, so that no pair has a margin yet."""

import math

from stages.lib.every_stage.errors import UserError
from stages.lib.schema.choices import DpoLoss
from stages.lib.schema.training import Dpo

MARGIN_LIMIT = 1e-6
PRECOMPUTED_MARGIN_LIMIT = 0.2
"""References that were computed before training, in batches of another shape and before layers are compiled, differ by
bfloat16's rounding; 0.008 was seen."""
COMPILED_MARGIN_LIMIT = 0.02
"""Compiled with and without gradients, the same model rounds to bfloat16 at other places; 0.0004 was seen."""


def refuse_wrong_reference(section: Dpo, figures: dict[str, float], compiled: bool) -> dict[str, float]:
    """Check the loss and margin of a pass before training, by `compiled` layers or not; return them as metrics.

    A new adapter adds nothing yet, so policy and reference agree: the reward margin is 0, and the sigmoid loss
    -log sigmoid(0) = ln 2 (Rafailov et al. 2023, arXiv 2305.18290, equation 7). Raises UserError otherwise: the
    reference is then another model than the one that is tuned, or the adapter does not start at zero.
    """
    margin, loss = figures["rewards/margins"], figures["loss"]
    limit = COMPILED_MARGIN_LIMIT if compiled else MARGIN_LIMIT
    if section.precompute_ref_log_probs:
        limit = PRECOMPUTED_MARGIN_LIMIT
    plain = section.loss_type == [DpoLoss.sigmoid] and not section.loss_weights
    if not abs(margin) <= limit or (plain and not abs(loss - math.log(2)) <= limit):  # NaN is refused too
        raise UserError(
            f"before the first step the reward margin is {margin:.4f} and the loss {loss:.4f}; needed 0 and ln 2 "
            f"({math.log(2):.4f}), since policy and reference are the same model then. Make the adapter start at zero "
            "(lora's default initialisation) and the reference the merged SFT model"
        )
    return {"step0_loss": round(loss, 6), "step0_margin": round(margin, 6)}
