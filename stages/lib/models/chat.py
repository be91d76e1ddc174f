"""Conversations as token ids, always through the model's own chat_template.jinja.

The same conversation gives the same ids in training, evaluation and chat. A template marks what the assistant says,
stop token included, with {% generation %}; those tokens are what assistant-only loss learns.
"""

from dataclasses import dataclass
from typing import Any

from stages.lib.errors import UserError

IGNORED = -100
"""The label that torch's cross entropy leaves out."""

Messages = list[dict[str, str]]


@dataclass
class Encoded:
    """One conversation: `input_ids` and, aligned with it, whether the assistant says the token."""

    input_ids: list[int]
    by_assistant: list[bool]


def encode(tokenizer: Any, messages: Messages) -> Encoded:
    """Render and tokenise a whole conversation."""
    rendered = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, add_special_tokens=False
    )
    return Encoded(rendered["input_ids"], [bool(flag) for flag in rendered["assistant_masks"]])


def encode_prompt(tokenizer: Any, messages: Messages) -> list[int]:
    """Token ids up to where the assistant's answer begins."""
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)[
        "input_ids"
    ]


def encode_answer(tokenizer: Any, prompt: Messages, answer: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of the answer to it, which ends with its stop token.

    Raises UserError if the prompt alone isn't tokenised as the beginning of prompt and answer: training would then
    see another context than generation does.
    """
    prompt_ids = encode_prompt(tokenizer, prompt)
    whole = encode(tokenizer, [*prompt, {"role": "assistant", "content": answer}])
    if whole.input_ids[: len(prompt_ids)] != prompt_ids:
        raise UserError(
            f"chat_template.jinja: the prompt's tokens are not the beginning of prompt and answer for "
            f"{answer[:40]!r}; end the generation prompt on a token boundary, such as a newline"
        )
    end = max(index for index, said in enumerate(whole.by_assistant) if said) + 1
    return prompt_ids, whole.input_ids[len(prompt_ids) : end]


def stop_ids(model_or_generation_config: Any) -> set[int]:
    """The token ids on which generation ends, as a set whether the config holds one or several."""
    eos = model_or_generation_config.eos_token_id
    return set(eos) if isinstance(eos, list) else {eos}


def refuse_unlearnable(rows: list[dict[str, Any]], stops: set[int]) -> None:
    """Check the labels of every row before training.

    Each row is `id`, `input_ids`, `labels`. Raises UserError naming the first rows in which nothing or everything is
    supervised, or a supervised span doesn't end with a supervised stop token: the model would never learn to stop. One
    in the middle, where a row's text spells it, would teach it to stop there.
    """
    problems = []
    for row in rows:
        labels = row["labels"]
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
            "Mend the rows, chat_template.jinja's {% generation %} block or max_length"
        )
