"""Are answers and likelihoods in a batch what they are of each conversation by itself? Asked before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.lib.evaluation.generation import generate_batch, generate_by_transformers
from stages.lib.evaluation.likelihood import answer_log_probs
from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat import encode_prompt, stop_ids
from stages.lib.models.loading import load_strictly, load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stages.lib.models.chat import Messages

ANSWER_TOKENS = 4
LIKELIHOOD_TOLERANCE = 1e-3
"""Nats a token, in float32."""


def probe_answers(long: Messages, short: Messages, model_directory: Path, root: Path) -> None:
    """Answer and score two conversations together, of which the `short` one ends first, and each by itself.

    Raises UserError where together isn't what each is by itself, in float32.
    """
    import torch

    model, tokenizer = load_strictly(root / model_directory, torch.float32), load_tokenizer(root / model_directory)
    both = [long, short]
    prompts = [encode_prompt(tokenizer, messages[:1]) for messages in both]
    plant_an_end(model, tokenizer, prompts[1])
    together = generate_batch(model, tokenizer, prompts, ANSWER_TOKENS)
    alone = [generate_by_transformers(model, tokenizer, [prompt], ANSWER_TOKENS)[0] for prompt in prompts]
    if together != alone:
        raise UserError(f"answered together it says {together}, each by itself {alone}; needed the same")
    scored = answer_log_probs(model, tokenizer, both, batch_tokens=100_000)
    for messages, (log_prob, tokens) in zip(both, scored, strict=True):
        ((wanted, _),) = answer_log_probs(model, tokenizer, [messages], batch_tokens=100_000)
        if not abs(log_prob - wanted) <= LIKELIHOOD_TOLERANCE * tokens:
            raise UserError(
                f"padded in a batch an answer's log-probability is {log_prob:.4f}, by itself {wanted:.4f}; needed "
                "the same"
            )


def plant_an_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: list[int]) -> None:
    """Let the second token that the model says to `prompt` end an answer."""
    import torch

    with torch.inference_mode():
        ids = torch.tensor([prompt], device=model.device)
        said = [int(model(ids, use_cache=False).logits[0, -1].argmax())]
        ids = torch.cat([ids, ids.new_tensor([said])], dim=1)
        said.append(int(model(ids, use_cache=False).logits[0, -1].argmax()))
    model.generation_config.eos_token_id = sorted({*stop_ids(model.generation_config), said[1]})
