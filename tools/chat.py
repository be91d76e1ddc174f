"""Talk to a model of the chain in the terminal.

Reads   models/{base,sft-merged,dpo-merged,preference-merged,rl-merged,pruned,healed-merged}, each with its own template
Run     graft chat [base|sft|dpo|rl|kto] [--temperature 0.5] [--top-p 0.9] [--max-new-tokens 256]
        graft chat --ask QUESTION [--ask QUESTION ...]        asks these, one after the other, and ends
        graft chat dpo --gguf models/gguf/q4_k_m.gguf         llama.cpp answers, from a file of the model

exit, quit, 종료 or Ctrl-D ends the chat; Ctrl-C stops an answer; /clear forgets what was said, /help says so. Messages
are Korean or English by the locale.
"""

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stages.lib.every_stage.entry import exit_on_user_error
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.foreign_text import shown
from stages.lib.models.chat import Messages
from stages.lib.quantizing.sampling import TEMPERATURES, TOP_P
from tools.lib.chat_models import (
    MAX_NEW_TOKENS,
    ChatModel,
    Sampling,
    TooLong,
    get_ready,
    model_directory,
)
from tools.lib.command_line import parser_of
from tools.lib.gguf_model import gguf_model
from tools.lib.phrases import Phrases, phrases_of
from tools.lib.suggestions import Suggestions, suggestions

ENDINGS = {"exit", "quit", "종료"}
CLEAR, HELP = "/clear", "/help"

Say = Callable[[str], None]
"""Shows text as it is, without a line's end."""


def talk(
    model: ChatModel,
    sampling: Sampling,
    ask: Callable[[str], str],
    say: Say,
    phrases: Phrases,
    offered: Suggestions | None = None,
) -> None:
    """Answer what `ask` brings until it brings an ending; EOFError is one. `offered` is what could be asked."""
    messages: Messages = []
    offered = offered or Suggestions()
    say(phrases.greeting.format(model=model.name) + "\n" + said_of(offered, phrases))
    while (question := next_question(ask, say, phrases)) is not None:
        if question == CLEAR:
            messages = []
            say(phrases.cleared + "\n")
            continue
        if question == HELP:
            say(phrases.help + "\n" + said_of(offered, phrases))
            continue
        try:
            messages, dropped = model.fit([*messages, {"role": "user", "content": question}], sampling.max_new_tokens)
        except TooLong as error:
            say(phrases.too_long.format(tokens=error.tokens, room=error.room) + "\n")
            continue
        if dropped:
            say(phrases.dropped.format(turns=dropped) + "\n")
        said = say_answer(model, messages, sampling, say, phrases)
        messages = [*messages, {"role": "assistant", "content": said}] if said else messages[:-1]
    say(phrases.goodbye + "\n")


def said_of(offered: Suggestions, phrases: Phrases) -> str:
    """What could be asked, in a line or two; nothing where there are no questions."""
    if not offered.questions:
        return ""
    line = phrases.suggestions.format(questions=" / ".join(map(shown, offered.questions)))
    return f"{line}\n{phrases.invented}\n" if offered.invented else f"{line}\n"


def next_question(ask: Callable[[str], str], say: Say, phrases: Phrases) -> str | None:
    """What is typed next, asking again while it is nothing; None to end."""
    while True:
        try:
            typed = ask(phrases.prompt).strip()
        except KeyboardInterrupt:
            say(f"\n{phrases.how_to_end}\n")
            continue
        except EOFError:
            say("\n")
            return None
        if typed.lower() in ENDINGS:
            return None
        if typed:
            return typed
        say(phrases.empty + "\n")


def say_answer(model: ChatModel, messages: Messages, sampling: Sampling, say: Say, phrases: Phrases) -> str:
    """Say an answer as it is made and return it. Ctrl-C stops it, and what was said until then stays said."""
    said, note = "", ""
    say(f"{model.name}> ")
    try:
        for piece in model.answer(messages, sampling):
            said += piece.text
            say(shown(piece.text))
            if piece.end == "limit":
                note = phrases.limit.format(tokens=sampling.max_new_tokens)
    except KeyboardInterrupt:
        note = phrases.interrupted
    say(f"\n{note}\n" if note else "\n")
    return said.strip()


def ask_person(prompt: str) -> str:
    """What is typed after `prompt`; what was typed before it, while the model answered, is no question."""
    if sys.stdin.isatty():
        with suppress(ImportError):  # no termios, no terminal of that kind
            import termios

            termios.tcflush(sys.stdin, termios.TCIFLUSH)
    return input(prompt)


def asks(questions: list[str]) -> Callable[[str], str]:
    """What asks these questions in place of a person, each shown after the prompt."""
    left = iter(questions)

    def ask(prompt: str) -> str:
        question = next(left, None)
        if question is None:
            raise EOFError
        write(f"{prompt}{shown(question)}\n")
        return question

    return ask


def write(text: str) -> None:
    """Write to the terminal at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> None:
    parser = parser_of("chat", __doc__)
    parser.add_argument("model", nargs="?", default="dpo", choices=list(TEMPERATURES))
    parser.add_argument("--temperature", type=float, help=f"0: the likeliest token; default {TEMPERATURES}")
    parser.add_argument("--top-p", type=float, default=TOP_P)
    parser.add_argument("--max-new-tokens", type=int, default=MAX_NEW_TOKENS)
    parser.add_argument("--ask", action="append", metavar="QUESTION", help="in place of the terminal; /clear works too")
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="llama.cpp answers from this file of the model")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all that this process may use")
    given = parser.parse_args()
    exit_on_user_error("chat", lambda: start(given), interrupted="nothing was said yet")


def start(given: argparse.Namespace) -> None:
    """Load the model and talk. Raises UserError where there is no standard input or output."""
    with suppress(ImportError):  # line editing, where Python was built with it
        import readline  # noqa: F401
    phrases = phrases_of(os.environ)
    for name, stream in {"input": sys.stdin, "output": sys.stdout}.items():
        if stream is None:  # Python has none where a shell closed it (<&-)
            raise UserError(f"standard {name} is closed; needed a terminal or a pipe")
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    temperature = TEMPERATURES[given.model] if given.temperature is None else given.temperature
    sampling = Sampling(temperature, given.top_p, given.max_new_tokens)
    directory = model_directory(given.model)
    write(phrases.loading.format(model=given.model) + "\n")
    threads = get_ready(given.threads)
    ask = asks(given.ask) if given.ask else ask_person
    if given.gguf:
        with gguf_model(given.model, directory, given.gguf, threads) as model:
            talk(model, sampling, ask, write, phrases, suggestions())
    else:
        talk(ChatModel(given.model, directory), sampling, ask, write, phrases, suggestions())


if __name__ == "__main__":
    main()
