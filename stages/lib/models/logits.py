"""Logits of some positions alone, by the model's own forward: what it does to them besides projecting, it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def logits_at(causal_lm: PreTrainedModel, said: Tensor, **given: Any) -> Tensor:
    """Logits (n, vocabulary) of the n positions that `said` (batch, length) picks, without a cache.

    `given` is the batch. The head sees those positions' hidden states alone: all logits of long rows take more memory
    than the model. Scales and caps that a family puts on its logits are part of its forward, and so of the result.
    """
    head = causal_lm.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda module, arguments: (arguments[0][said], *arguments[1:]))
    try:
        return causal_lm(**given, use_cache=False).logits
    finally:
        handle.remove()
