"""A model's chat template: the text that a conversation is to it, without a tokenizer and without torch.

The text is that of tokenizer.apply_chat_template: template and special tokens of the same files, compiled the same way
(stages/lib/models/template_renderer.py). A template is foreign code: what it refuses, leaves out, takes too long for or
changes from day to day is found here, before anything is trained on it.
"""

import json
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from stages.lib.every_stage.errors import UserError

Messages = list[dict[str, str]]

FILE = "chat_template.jinja"
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""What transformers hands to a template by name (PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES)."""
CLOCK = re.compile(r"\bstrftime_now\s*\(")
"""The function of today's date that transformers gives to templates."""
SECONDS = 10
"""A conversation takes a template less than a millisecond; loops within loops can take it for ever."""
QUESTION = [{"role": "user", "content": "What is one and one?"}, {"role": "assistant", "content": "It is Two."}]
SYSTEM = {"role": "system", "content": "Answer in a Single word."}

REFUSED = "refused_by_template"
ALTERED = "altered_by_template"
UNLIKE_PROMPT = "unlike_its_prompt"
UNFIT = (REFUSED, ALTERED, UNLIKE_PROMPT)
"""Reason codes of rows that the template can't hold."""


class Unfit(ValueError):
    """Reason code and detail of what keeps a conversation from being rendered as it is."""


class ChatTemplate:
    """A chat template and the special tokens that it may name.

    `takes_system` says whether it writes what a system message says; others raise, or leave it out silently. Raises
    UserError for a template that can't render a question and its answer, or that writes another text each time or day.
    """

    def __init__(self, text: str, special_tokens: dict[str, str], place: str) -> None:
        self.text, self.special_tokens, self.place = text, special_tokens, place
        try:
            if self.render(QUESTION) != self.checked(QUESTION) or CLOCK.search(text):
                raise UserError(
                    f"{place}: it writes something else each time or each day, such as today's date; needed a fixed "
                    "text, or equal rows would be trained on as other tokens tomorrow. Write a date in its place"
                )
        except Unfit as unfit:
            raise UserError(
                f"{place}: it can't hold a question and its answer: {unfit.args[1]}. Choose another "
                "prepare_base.chat_template"
            ) from None
        self.takes_system = True
        try:
            self.checked([SYSTEM, *QUESTION])
        except Unfit:
            self.takes_system = False

    @classmethod
    def of(cls, directory: Path) -> "ChatTemplate":
        """The template of a model directory. Raises UserError if there is none."""
        place = directory / FILE
        if not place.is_file():
            raise UserError(f"{place}: no such file; needed the model's chat template. Run `dvc repro prepare-base`")
        config = directory / "tokenizer_config.json"
        named = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        # a token with options of its own is written as an object
        tokens = {name: named[name] for name in SPECIAL_TOKENS if named.get(name) is not None}
        special = {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
        return cls(place.read_text(encoding="utf-8"), special, str(place))

    def render(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        """The conversation as text; as a prompt, with what an answer is generated behind.

        Raises Unfit (REFUSED) with the template's own words for a conversation that it doesn't take, and UserError if
        it hasn't ended after SECONDS.
        """
        return self.rendered((messages, add_generation_prompt))[0]

    def rendered(self, *wanted: tuple[Messages, bool]) -> list[str]:
        """Conversations as texts, each as a prompt or not, within one limit of time. Raises what `render` raises."""
        from stages.lib.models.template_renderer import compiled

        hanging = f"{self.place}: it hasn't rendered a conversation after {SECONDS} s; needed one that ends"
        try:
            with time_limit(SECONDS, hanging):
                template = compiled(self.text)
                return [
                    template.render(
                        self.special_tokens, messages=messages, add_generation_prompt=prompt, tools=None, documents=None
                    )
                    for messages, prompt in wanted
                ]
        except UserError:
            raise
        except Exception as error:  # foreign code: whatever it raises is its refusal
            raise Unfit(REFUSED, f"the template says: {words_of(error)}") from None

    def checked(self, messages: Messages) -> str:
        """The whole conversation as text that holds what everyone says, in order.

        White space around a message may go. A system message may stand anywhere: some templates put it into the last
        question. Raises Unfit for a conversation that the template doesn't take (REFUSED), that it renders without a
        part of it (ALTERED), or whose last answer doesn't stand behind the prompt that it would be generated from
        (UNLIKE_PROMPT), as one that brings its own thinking where the prompt has closed it.
        """
        text, prompt = self.rendered((messages, False), (messages[:-1], True))
        place = 0
        for number, message in enumerate(messages, start=1):
            content = message["content"].strip()
            found = text.find(content, 0 if message["role"] == "system" else place)
            if found < 0:
                raise Unfit(
                    ALTERED,
                    f"message {number} of {len(messages)} ({message['role']}) is not in the rendered text as it was "
                    f"written: {content[:60]!r}",
                )
            if message["role"] != "system":
                place = found + len(content)
        if not text.startswith(prompt):
            raise Unfit(
                UNLIKE_PROMPT,
                f"the answer {messages[-1]['content'][:60]!r} is not written behind the prompt it is generated from",
            )
        return text


def folded(messages: Messages) -> Messages:
    """The conversation with its system message, which is the first one, in front of its first question."""
    system, first, *others = messages
    return [{"role": first["role"], "content": f"{system['content']}\n\n{first['content']}"}, *others]


def words_of(error: BaseException) -> str:
    """What an error of a template says, on one line, at most 300 characters, nothing that a terminal obeys."""
    text = " ".join(str(error).split())[:300] or "nothing"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def time_limit(seconds: float, message: str) -> AbstractContextManager[None]:
    """Raise UserError of `message` in what runs longer than `seconds`, in whatever thread.

    Signals reach the main thread alone. Any other, such as one that answers a browser, looks at the clock with each
    line of Python that it runs, generated ones of a template included.
    """
    limit = alarm if threading.current_thread() is threading.main_thread() else clock
    return limit(seconds, message)


@contextmanager
def alarm(seconds: float, message: str) -> Iterator[None]:
    """time_limit for the main thread."""

    def stop(*_: object) -> None:
        raise UserError(message)

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def clock(seconds: float, message: str) -> Iterator[None]:
    """time_limit for any thread, at some cost."""
    end = time.monotonic() + seconds

    def look(*_: object) -> Callable[..., Any]:
        if time.monotonic() > end:
            raise UserError(message)
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(before)
