"""Where reinforcement learning must start: the policy is its reference, so that nothing is between them yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.lib.every_stage.errors import UserError

if TYPE_CHECKING:
    import torch

KL_LIMIT = 1e-6
KL_LIMIT_16_BIT = 1e-3
"""Nats a token. Batches of another composition round to 16 bit at other places."""


def refuse_wrong_reference(figures: dict[str, float], beta: float, dtype: torch.dtype) -> dict[str, float]:
    """Check the first step's KL divergence from the reference, the model with the new adapter off; 0 before any update.

    Not the loss, which isn't 0 there by trl's losses. Without a reference (`beta` 0) there is nothing to check.
    Raises UserError otherwise: the adapter doesn't start at zero, or the reference is another model.
    """
    import torch

    if not beta:
        return {}
    limit = KL_LIMIT if dtype is torch.float32 else KL_LIMIT_16_BIT
    if not abs(figures["kl"]) <= limit:  # NaN is refused too
        raise UserError(
            f"in the first step the KL divergence from the reference is {figures['kl']:.6f} nats a token; needed 0, "
            "since policy and reference are the same model then. Make the adapter start at zero (lora's default "
            "initialisation)"
        )
    return {"step0_kl": round(figures["kl"], 6)}
