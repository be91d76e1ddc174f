"""Does a merged model say what its parts said? Measured on conversations that training saw."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat import Messages, encode
from stages.lib.models.logits import logits_at

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def compare(
    unmerged: PreTrainedModel,
    merged: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    probes: list[Messages],
    max_tokens: int,
) -> dict[str, float]:
    """How far `merged` is from `unmerged` at the assistant's tokens of `probes`, each truncated at `max_tokens` tokens.

    Returns the perplexity of both, the mean Kullback-Leibler divergence of the merged from the unmerged model's
    distribution in nats a token, sum p (log p - log q), and how often both find the same token most likely.
    """
    import torch

    losses = [0.0, 0.0]
    divergence = agreed = 0.0
    count = 0
    for messages in probes:
        encoded = encode(tokenizer, messages)
        ids = torch.tensor([encoded.input_ids[:max_tokens]], device=merged.device)
        at = torch.tensor([[*encoded.by_assistant[:max_tokens][1:], False]])  # a position's logits are the next token's
        said = at[0, :-1].to(merged.device)
        with torch.inference_mode():
            p, q = (
                logits_at(model, at.to(model.device), input_ids=ids.to(model.device)).to(merged.device).float()
                for model in (unmerged, merged)
            )
            p, q = p.log_softmax(-1), q.log_softmax(-1)
            targets = ids[0, 1:][said][:, None]
            losses[0] -= float(p.gather(-1, targets).sum())
            losses[1] -= float(q.gather(-1, targets).sum())
            divergence += float((p.exp() * (p - q)).sum())
            agreed += float((p.argmax(-1) == q.argmax(-1)).sum())
        count += int(said.sum())
    return {
        "perplexity_unmerged": round(math.exp(losses[0] / count), 4),
        "perplexity_merged": round(math.exp(losses[1] / count), 4),
        "kl": round(divergence / count, 5),
        "top1_agreement": round(agreed / count, 4),
        "probe_tokens": count,
    }


def refuse_a_ruined_merge(name: str, figures: dict[str, float], max_kl: float) -> None:
    """Raise UserError if the merged model is further than `max_kl` nats a token from what was trained."""
    if not figures["kl"] <= max_kl:  # NaN is refused too
        raise UserError(
            f"the merged model is {figures['kl']} nats a token away from the adapter on the weights it was "
            f"trained on; needed at most {name.replace('-', '_')}.max_kl={max_kl}. Perplexity on "
            f"{figures['probe_tokens']:.0f} probe tokens: {figures['perplexity_unmerged']} before, "
            f"{figures['perplexity_merged']} after. Merge with base=dequantized if nothing quantises the result "
            "again, or train with less quantisation; nothing was published"
        )
