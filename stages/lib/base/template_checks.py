"""Can a model learn what its chat template writes? Asked once, where weights, tokenizer and template first meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat import encode, render
from stages.lib.models.chat_template import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONVERSATION = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]

UNTRAINED = 1e-16
"""Largest absolute value of an embedding that never got a gradient: weight decay took it there."""


def refuse_another_text(tokenizer: PreTrainedTokenizerBase, template: ChatTemplate) -> None:
    """Raise UserError if the data stages would count and check another text than the tokenizer's, which is trained on.

    They render without transformers (template_renderer.py).
    """
    for prompt in (False, True):
        counted, learned = template.render(CONVERSATION, prompt), render(tokenizer, CONVERSATION, prompt)
        if counted != learned:
            raise UserError(
                f"prepare_base.chat_template: the data stages render {counted[:200]!r} of what transformers renders "
                f"{learned[:200]!r}; needed one text. Write the template without what the two take differently"
            )


def refuse_endless_answers(tokenizer: PreTrainedTokenizerBase, stop_tokens: list[str]) -> None:
    """Raise UserError unless the last token that is learned of an answer is one of `stop_tokens`.

    A model that is trained on such a template never learns to end an answer.
    """
    encoded = encode(tokenizer, CONVERSATION)
    said = [token for token, by in zip(encoded.input_ids, encoded.by_assistant, strict=True) if by]
    last = tokenizer.convert_ids_to_tokens(said[-1]) if said else "nothing"
    if last not in stop_tokens:
        raise UserError(
            f"prepare_base.chat_template: it ends an answer with {last!r}, needed one of the stop tokens, "
            f"{stop_tokens}, within its {{% generation %}} block if it has one. Fix the template, or set "
            "prepare_base.stop_tokens"
        )


def refuse_untrained_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError for special tokens that the template writes and that the model was never trained on.

    Their embeddings, or rows of the head, are zero (as in Llama-3 before its instruction tuning) or equal to another
    special token's: whatever nothing trained stays where it began. An adapter on the layers between can't make the
    model read them or say them.
    """
    ids = set(encode(tokenizer, CONVERSATION).input_ids)
    specials = sorted(tokenizer.added_tokens_decoder)
    problems = []
    for part, layer in (("embedding", model.get_input_embeddings()), ("head", model.get_output_embeddings())):
        weight: Any = layer.weight
        rows = weight.detach()[specials]
        for place, token in enumerate(specials):
            row = rows[place]
            if token in ids and (row.abs().max() <= UNTRAINED or (rows == row).all(1).sum() > 1):
                problems.append(f"{tokenizer.convert_ids_to_tokens(token)} ({part})")
    if problems:
        raise UserError(
            f"prepare_base.chat_template: the model was never trained on {', '.join(problems)}, which the template "
            "writes; needed tokens that it knows. Choose a template of words and of the model's own stop token, such "
            "as zephyr.jinja, or the instruction-tuned version of the model"
        )
