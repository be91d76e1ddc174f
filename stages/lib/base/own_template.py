"""A repository's own chat template, made to write the same text whenever it is asked.

{%- set enable_thinking = false %}
{{- bos_token }}{%- for message in messages %} …
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat import MARK, encode, render
from stages.lib.schema.data import OWN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINKING = ("enable_thinking", "thinking")
"""What templates ask for the mode in which an answer begins with its reasoning."""

TODAY = date(2024, 7, 26)
"""What is written for today's date: the day that Llama-3.2's template names where it knows none."""

CALL_OF_DATE = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")

QUESTION, ANSWER = "Could you?", "Certainly, gladly."
"""What no template has a reason to change or to spell."""


def read_template(name: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template that prepare_base.chat_template names: a file in `folder`, or the one that the model came with.

    Raises UserError if there is none.
    """
    if name == OWN:
        return read_own_template(tokenizer)
    if not (folder / name).is_file():
        choices = ", ".join([OWN, *sorted(path.name for path in folder.iterdir())])
        raise UserError(f"prepare_base.chat_template: found {name!r}, needed one of {choices}")
    return (folder / name).read_text(encoding="utf-8")


def read_own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template that came with a tokenizer, the one named "default" where there are several.

    Raises UserError where there is none.
    """
    found = tokenizer.chat_template
    if isinstance(found, dict) and "default" in found:
        found = found["default"]
    if isinstance(found, str):
        return found
    what = f"templates named {', '.join(sorted(found))} and none named default" if found else "no chat template"
    raise UserError(
        f"prepare_base.chat_template: found 'own', and {what} in the repository, as is usual for a model that was "
        "never tuned to chat. Choose a file of conf/chat_template: plain.jinja needs no tokens of its own"
    )


def freeze_template(template: str, tokens: dict[str, str], changed: dict[str, str]) -> tuple[str, list[str]]:
    """`template` with a fixed choice for all that would differ between training and use, or between two days.

    Answers begin without thinking; today's date is TODAY; special tokens that it names, such as eos_token, are those
    of `tokens`, where `changed` gives the tokenizer another one. Its own {% generation %} marks go, since what they
    hold differs (a newline behind the stop token, the prompt's end): answers are found as encode does without them.
    Returns the template and what was fixed, in words. Raises UserError for a date that can't be fixed.
    """
    template = unmark(template)
    names = variables(template)
    lines, said = [], []
    for name in THINKING:
        if name in names:
            lines.append(f"{{%- set {name} = false %}}\n")
            said.append(f"{name} is false: answers are trained, evaluated and given without thinking")
    for name in sorted(set(tokens) & set(changed) & names):
        if tokens[name] != changed[name]:
            lines.append(f"{{%- set {name} = {tokens[name]!r} %}}\n")
            said.append(f"{name} is {tokens[name]!r}, as the repository has it")
    fixed = CALL_OF_DATE.sub(lambda call: repr(TODAY.strftime(call[2])), template)
    if fixed != template:
        said.append(f"today's date is {TODAY:%-d %B %Y}, or equal rows would give other tokens tomorrow")
    if "strftime_now(" in fixed:
        raise UserError(
            "prepare_base.chat_template: the repository's template writes today's date in a format that it computes; "
            "training and use would differ. Choose a file of conf/chat_template, or set it to a copy there with a date"
        )
    return "".join(lines) + fixed, said


def unmark(template: str) -> str:
    """A template without {% generation %} marks that writes the same text: each becomes a condition that holds."""
    begun = re.sub(r"({%-?\s*)generation(\s*-?%})", r"\1if true\2", template)
    return re.sub(r"({%-?\s*)endgeneration(\s*-?%})", r"\1endif\2", begun)


def variables(template: str) -> set[str]:
    """The names that a template without marks takes from outside."""
    from jinja2 import Environment, TemplateSyntaxError
    from jinja2.meta import find_undeclared_variables

    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        return find_undeclared_variables(environment.parse(template))
    except TemplateSyntaxError as error:
        raise UserError(
            f"prepare_base.chat_template: not a template: {error}. Choose a file of conf/chat_template"
        ) from None


def find_answer_end(tokenizer: PreTrainedTokenizerBase, stops: list[str]) -> str | None:
    """The token with which the tokenizer's template ends an answer: the last that it marks as the assistant's.

    Where it marks nothing: the first one behind an answer that is in `stops`, what the repository's files say ends
    generation, or else the first special one; None if there is none. Raises UserError for a template that leaves the
    text of messages out, as those do that want it in parts beside images.
    """
    conversation = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    text = render(tokenizer, conversation)
    if QUESTION not in text or ANSWER not in text:
        raise UserError(
            "prepare_base.chat_template: it leaves out the text of messages, as templates do that want it in parts "
            "beside images. Choose a file of conf/chat_template, such as plain.jinja"
        )
    if MARK.search(tokenizer.chat_template):
        encoded = encode(tokenizer, conversation)
        said = [token for token, by in zip(encoded.input_ids, encoded.by_assistant, strict=True) if by]
        return str(tokenizer.convert_ids_to_tokens(said[-1])) if said else None
    rest = text[text.rfind(ANSWER) + len(ANSWER) :]
    added = tokenizer.added_tokens_decoder
    behind = [
        added[token].content for token in tokenizer(rest, add_special_tokens=False)["input_ids"] if token in added
    ]
    return next((token for token in behind if token in stops), behind[0] if behind else None)
