"""Conversations as token ids, always through the model's own chat_template.jinja.

The same conversation gives the same ids in training, evaluation and chat. What the assistant says, stop token
included, is what assistant-only loss learns: what a template marks with {% generation %}, or, where it marks nothing,
what it writes after the prompt that the answer would be generated from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat_template import SECONDS, Messages, time_limit, words_of
from stages.lib.schema.choices import LossOn

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

IGNORED = -100
"""The label that torch's cross entropy leaves out."""

MARK = re.compile(r"{%-?\s*generation\s*-?%}")


class Labelled(TypedDict):
    """Tokens, and of equal length those of them that are learned, IGNORED elsewhere."""

    input_ids: list[int]
    labels: list[int]
    raw: NotRequired[bool]  # of raw text, which ends in no stop token


class Origin(TypedDict):
    """Where a row of SFT is from."""

    id: str
    source: str  # the data set's name


class TokenRow(Origin, Labelled):
    """A row of SFT as tokens."""

    held: NotRequired[list[int]]  # the tokens that are held to the base, IGNORED elsewhere (keep_base.py)


@dataclass
class Encoded:
    """One conversation: `input_ids` and, aligned with it, whether the assistant says the token.

    `elsewhere` are the messages, by their place, whose answers no prompt leads to: a template that writes earlier
    answers otherwise than new ones (Qwen3 takes their thinking out) never generates them in this form. They are
    learned in rows of their own (see `encode_last`).
    """

    input_ids: list[int]
    by_assistant: list[bool]
    elsewhere: list[int] = field(default_factory=list)


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, add_generation_prompt: bool = False) -> str:
    """A conversation's text by the model's template. Raises UserError with the template's reason if it refuses it."""
    return apply_template(tokenizer, messages, tokenize=False, add_generation_prompt=add_generation_prompt)


def apply_template(tokenizer: PreTrainedTokenizerBase, messages: Messages, **options: Any) -> Any:
    """tokenizer.apply_chat_template, with what a template refuses as a UserError."""
    from jinja2 import TemplateError

    try:
        with time_limit(SECONDS, f"chat_template.jinja hasn't rendered a conversation after {SECONDS} s"):
            return tokenizer.apply_chat_template(messages, **options)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(f"chat_template.jinja refuses a conversation of {roles}: {words_of(error)}") from None


def encode(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> Encoded:
    """Render and tokenise a whole conversation.

    Raises UserError for a conversation that the template refuses, and, where the template marks no answers, if the
    prompt of the last one isn't a prefix of prompt + answer.
    """
    if MARK.search(tokenizer.chat_template):
        rendered = apply_template(
            tokenizer, messages, return_dict=True, return_assistant_tokens_mask=True, add_special_tokens=False
        )
        return Encoded(rendered["input_ids"], [bool(flag) for flag in rendered["assistant_masks"]])
    text = render(tokenizer, messages)
    spans = {place: answer_span(tokenizer, messages, place, text) for place in answers(messages)}
    elsewhere = [place for place, span in spans.items() if span is None]
    return Encoded(*tokenise(tokenizer, text, [span for span in spans.values() if span]), elsewhere)


def encode_last(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> Encoded:
    """A conversation that ends in an answer, of which that answer alone is learned."""
    whole = encode(tokenizer, messages)
    end = last_true(whole.by_assistant)
    begin = end
    while begin and whole.by_assistant[begin - 1]:
        begin -= 1
    learned = [begin <= place <= end for place in range(len(whole.input_ids))]
    return Encoded(whole.input_ids, learned)


def answers(messages: Messages) -> list[int]:
    """The places of the assistant's messages that something precedes."""
    return [place for place, message in enumerate(messages) if place and message["role"] == "assistant"]


def answer_span(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, place: int, text: str
) -> tuple[int, int] | None:
    """Where in a conversation's `text` the answer at `place` begins and, its stop token included, ends.

    It begins where the prompt ends that it is generated from. It ends with the tokenizer's eos_token, which
    prepare-base sets to the token that the template ends answers with. None for an earlier answer that the template
    writes otherwise than a new one. Raises UserError for a new one that doesn't begin with its prompt.
    """
    last = place == len(messages) - 1
    prompt = render(tokenizer, messages[:place], add_generation_prompt=True)
    if not text.startswith(prompt):
        if last:
            raise UserError(not_a_prefix(messages[place]["content"]))
        return None
    end = len(text) if last else common_beginning(text, render(tokenizer, messages[: place + 1]))
    stop = text.rfind(tokenizer.eos_token, len(prompt), end)
    if stop >= 0:
        return len(prompt), stop + len(tokenizer.eos_token)
    return (len(prompt), end) if last else None


def common_beginning(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)


def tokenise(
    tokenizer: PreTrainedTokenizerBase, text: str, spans: list[tuple[int, int]]
) -> tuple[list[int], list[bool]]:
    """Token ids of a rendered conversation, and which of them are in the `spans` of characters.

    Raises UserError for a token that is partly in a span: generation, which starts at the span, never sees it.
    """
    encoding: BatchEncoding = tokenizer(text, add_special_tokens=False)
    ids = encoding["input_ids"]
    inside = [False] * len(ids)
    for begin, end in spans:
        places = (encoding.char_to_token(character) for character in range(begin, end))
        first = next((place for place in places if place is not None), None)
        final = encoding.char_to_token(end - 1)
        if first is None or final is None:
            continue
        if (characters := encoding.token_to_chars(first)) and characters.start < begin:
            raise UserError(not_a_prefix(text[begin:end]))
        inside[first : final + 1] = [True] * (final + 1 - first)
    return ids, inside


def not_a_prefix(answer: str) -> str:
    """The message for a template or an answer that training would see in another context than generation."""
    return (
        f"chat_template.jinja: the prompt's tokens are not a prefix of prompt + answer for {answer[:40]!r}; "
        "needed a generation prompt that an answer is written behind as it is, and that ends on a token boundary, such "
        "as a newline. Choose or write a file of conf/chat_template"
    )


def last_true(flags: list[bool]) -> int:
    """The last place of a true flag; there must be one."""
    return max(place for place, flag in enumerate(flags) if flag)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Token ids up to where the assistant's answer begins."""
    return tokenizer(render(tokenizer, messages, add_generation_prompt=True), add_special_tokens=False)["input_ids"]


def encode_answer(tokenizer: PreTrainedTokenizerBase, prompt: Messages, answer: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of the answer to it, which ends with its stop token.

    Raises UserError if the prompt alone isn't tokenised as a prefix of prompt + answer: training would then
    see another context than generation does.
    """
    prompt_ids = encode_prompt(tokenizer, prompt)
    whole = encode(tokenizer, [*prompt, {"role": "assistant", "content": answer}])
    if whole.input_ids[: len(prompt_ids)] != prompt_ids:
        raise UserError(not_a_prefix(answer))
    return prompt_ids, whole.input_ids[len(prompt_ids) : last_true(whole.by_assistant) + 1]


def stop_ids(model_or_generation_config: Any) -> set[int]:
    """The token ids on which generation ends, as a set whether the config holds one or several."""
    eos = model_or_generation_config.eos_token_id
    return set(eos) if isinstance(eos, list) else {eos}


def refuse_unlearnable(rows: list[TokenRow], stops: set[int], loss_on: LossOn = LossOn.assistant) -> None:
    """Check the labels of every row before training.

    Each row is `id`, `input_ids`, `labels`, and `raw` if it is raw text. Raises UserError naming the first rows in
    which nothing or everything is supervised, or a supervised span doesn't end with a supervised stop token: the model
    would never learn to stop. One in the middle, where a row's text spells it, would teach it to stop there, and so
    would any in raw text. Where the loss is on all tokens, raw text alone is checked.
    """
    problems = []
    for row in rows:
        labels = row["labels"]
        if row.get("raw"):
            if stops & set(labels):
                problems.append(f"{row['id']}: raw text with a stop token, written in the data")
            continue
        if loss_on is LossOn.all:
            continue
        supervised = [label != IGNORED for label in labels]
        if not any(supervised):
            problems.append(f"{row['id']}: no token is supervised")
        elif all(supervised):
            problems.append(f"{row['id']}: every token is supervised, the question too")
        else:
            ends = [i for i, on in enumerate(supervised) if on and (i + 1 == len(labels) or not supervised[i + 1])]
            if any(labels[end] not in stops for end in ends):
                problems.append(f"{row['id']}: an answer's stop token is not supervised")
            elif sum(label in stops for label in labels) > len(ends):
                problems.append(f"{row['id']}: an answer has a stop token in its middle, written in the data")
    if problems:
        raise UserError(
            f"{len(problems)} of {len(rows)} training rows can't be learned from: {'; '.join(problems[:3])}. "
            "Fix the rows, chat_template.jinja's {% generation %} block or max_length"
        )
