"""Text without torch is the tokenizer's own; what a template refuses, leaves out or never ends is found before rows."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trl
from conftest import ROOT
from transformers.utils.chat_template_utils import render_jinja_template

from stages.lib.every_stage.errors import UserError
from stages.lib.models import chat, chat_template
from stages.lib.models.chat import encode, encode_prompt
from stages.lib.models.chat_template import ALTERED, REFUSED, UNLIKE_PROMPT, ChatTemplate, Unfit, folded
from stages.lib.models.loading import load_tokenizer
from stages.lib.models.template_renderer import compiled
from tests.templates import FORGETFUL, GEMMA_2, MISTRAL_1, MISTRAL_3, write_tokenizer

PUBLISHED = {f"trl-{path.stem}": path for path in (Path(trl.__file__).parent / "chat_templates").glob("*.jinja")}
OURS = {path.stem: path for path in (ROOT / "conf/chat_template").glob("*.jinja")}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in sorted((PUBLISHED | OURS).items())} | {
    "gemma_2": GEMMA_2,
    "mistral_1": MISTRAL_1,
    "mistral_3": MISTRAL_3,
}

USER = {"role": "user", "content": " 주소는 <b>어디</b>인가요?\n"}
ASSISTANT = {"role": "assistant", "content": '초롱돌로 417, "6층"입니다. {{ x }} It\'s.'}
SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATIONS = [
    [USER],
    [USER, ASSISTANT],
    [USER, ASSISTANT, USER, ASSISTANT],
    [SYSTEM, USER, ASSISTANT],
    [SYSTEM, USER, ASSISTANT, USER, ASSISTANT],
]


def template_of(text: str) -> ChatTemplate:
    return ChatTemplate(text, {"bos_token": "<bos>", "eos_token": "</s>"}, "chat_template.jinja")


def outcome(render: Callable[..., str], messages: Any, **options: Any) -> str:
    """The text, or that it is refused."""
    try:
        return render(messages, **options)
    except Exception:
        return "refused"


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_is_that_of_the_tokenizer(tmp_path: Path, name: str) -> None:
    text = re.sub(r"strftime_now\([^)]*\)", "'26 Jul 2024'", TEXTS[name])
    write_tokenizer(tmp_path, text)
    tokenizer = load_tokenizer(tmp_path)
    try:
        template = ChatTemplate.of(tmp_path)
    except UserError as error:  # text in parts, beside images; answers that begin elsewhere than their prompt ends
        assert "it can't hold a question and its answer" in str(error)
        assert name not in OURS
        return
    for messages in CONVERSATIONS:
        for options in ({}, {"add_generation_prompt": True}):
            wanted = outcome(tokenizer.apply_chat_template, messages, tokenize=False, **options)
            assert outcome(template.render, messages, **options) == wanted


SANDBOXED = [
    "{% set n = namespace(a=1) %}{% set n.a = n.a + 1 %}{{ n.a }}",
    "{% set n = namespace({'a': 1}, self=2) %}{{ n.a }}{{ n.self }}",
    "{% set n = namespace(_a=1) %}",
    "{% set n = namespace() %}{% set n._a = 1 %}",
    "{% set n = namespace() %}{% set n.__class__ = 1 %}",
    "{{ dict(a=1) }}{{ dict({'a': 1}, b=2) | tojson }}{{ dict.fromkeys(['a', 'b'], 1) }}",
    "{{ dict.mro() }}",
    "{{ dict.__class__ }}",
    "{{ ''.__class__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{{ messages[0].pop('role') }}",
    "{{ raise_exception('Never') }}",
    "{{ strftime_now('%Y') }}",
    "{{ tools is none }}{{ documents is none }}{{ absent is defined }}{{ bos_token }}",
    "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}{{ 'ㄱ' | tojson(ensure_ascii=true) }}",
    "{{ {'b': 1, 'a': '<'} | tojson(separators=(',', ':'), sort_keys=true) }}",
    "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}",
    "{% macro m(a) %}{% generation %}{{ a }}\n  {%- endgeneration %}{% endmacro %}{{ m(1) }}",
    "{% generation %}{{ messages[0].content }}",
    "{{ range(10 ** 6) }}",
    "  {% if true %}\n  a\n  {% endif %}\n b",
    "{{ lipsum.__globals__ }}",
    "{{ '{0.__class__}'.format(1) }}",
]


@pytest.mark.parametrize("text", SANDBOXED)
def test_the_sandbox_is_that_of_transformers(text: str) -> None:
    """What a foreign template can do, set and reach, in this text or another."""
    variables: dict[str, Any] = {"messages": [USER, ASSISTANT], "add_generation_prompt": False, "bos_token": "<bos>"}
    ours = outcome(lambda _: compiled(text).render(tools=None, documents=None, **variables), None)
    assert ours == outcome(
        lambda messages: render_jinja_template([messages], chat_template=text, bos_token="<bos>")[0][0],
        [USER, ASSISTANT],
    )


def test_of_the_published_templates_most_can_be_trained() -> None:
    usable = [name for name, text in TEXTS.items() if outcome(lambda text: template_of(text).text, text) != "refused"]
    assert {"trl-gemma3", "trl-llama3", "trl-qwen2_5", "trl-qwen3", "trl-phi3", "trl-lfm2", "mistral_3"} <= {*usable}


@pytest.mark.parametrize(
    ("text", "takes"),
    [
        (GEMMA_2, False),
        (MISTRAL_1, False),
        (FORGETFUL, False),
        (MISTRAL_3, True),
        (TEXTS["trl-gemma"], False),
        (TEXTS["trl-gemma3"], True),  # into the first question, by itself
        (TEXTS["trl-qwen3"], True),
        *[(TEXTS[name], True) for name in OURS],
    ],
)
def test_whether_it_takes_a_system_message_is_asked_of_the_template(text: str, takes: bool) -> None:
    template = template_of(text)
    assert template.takes_system is takes
    taken = CONVERSATIONS[-1] if takes else folded(CONVERSATIONS[-1])
    assert "Be brief." in template.checked(taken)


def test_folded_it_stands_in_front_of_the_first_question() -> None:
    found = folded(CONVERSATIONS[-1])
    assert [message["role"] for message in found] == ["user", "assistant", "user", "assistant"]
    assert found[0]["content"] == f"Be brief.\n\n{USER['content']}" and found[1:] == CONVERSATIONS[-1][2:]


@pytest.mark.parametrize(
    ("text", "messages", "reason", "said"),
    [
        (GEMMA_2, [SYSTEM, USER, ASSISTANT], REFUSED, "the template says: System role not supported"),
        (GEMMA_2, [USER, USER, ASSISTANT], REFUSED, "roles must alternate"),
        (
            TEXTS["trl-qwen3"],
            [USER, {"role": "assistant", "content": "<think>\nA\n</think>\n\nB"}, USER, ASSISTANT],
            ALTERED,
            r"message 2 of 4 \(assistant\) is not in the rendered text as it was written: '<think>",
        ),
        (
            "{%- set enable_thinking = false %}\n" + TEXTS["trl-qwen3"],
            [USER, {"role": "assistant", "content": "<think>\nA\n</think>\n\nB"}],
            UNLIKE_PROMPT,
            "the answer '<think>.* is not written behind the prompt",
        ),
        (
            "{% for m in messages %}{{ m.content | replace('<b>', '') }}\n{% endfor %}",
            [USER, ASSISTANT],
            ALTERED,
            r"message 1 of 2 \(user\)",
        ),
        (
            "{% for m in messages %}{{ m.content.split('#')[0] }}\n{% endfor %}",
            [USER, {"role": "assistant", "content": "# A\n# B"}],
            ALTERED,
            "message 2 of 2",
        ),
        ("{% for m in messages %}{{ m.content }}{{ m.x.y if 'A' in m.content }}{% endfor %}",
         [{"role": "user", "content": "A"}, ASSISTANT], REFUSED, "no attribute 'x'"),
    ],
)  # fmt: skip
def test_what_a_template_cannot_hold_has_its_reason(text: str, messages: Any, reason: str, said: str) -> None:
    with pytest.raises(Unfit) as caught:
        template_of(text).checked(messages)
    assert caught.value.args[0] == reason
    assert re.search(said, caught.value.args[1])


def test_white_space_around_a_message_may_go() -> None:
    assert USER["content"].strip() in template_of(GEMMA_2).checked([USER, ASSISTANT])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{% for %}", "can't hold a question and its answer: the template says: "),
        ("{{ raise_exception('Never') }}", "the template says: Never"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "message 2 of 2"),
        (TEXTS["trl-llama3_2"], "today's date; needed a fixed text"),
        (
            "{% for m in messages %}{{ m.content }}{% endfor %}{{ lipsum() if not add_generation_prompt }}",
            "something else each time",
        ),
    ],
)
def test_a_template_that_no_row_can_be_rendered_by_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        template_of(text)


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a %}{% endfor %}{% endfor %}"


def here(body: Callable[[], Any]) -> Any:
    return body()


def in_a_thread(body: Callable[[], Any]) -> Any:
    """As the arena renders what a browser asks."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(body).result()


@pytest.mark.parametrize("where", [here, in_a_thread])
def test_a_template_that_never_ends_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Callable[..., Any]
) -> None:
    monkeypatch.setattr(chat_template, "SECONDS", 0.3)
    monkeypatch.setattr(chat, "SECONDS", 0.3)
    write_tokenizer(tmp_path, LOOPS)
    tokenizer = load_tokenizer(tmp_path)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"hasn't rendered a conversation after 0.3 s; needed one that ends"):
        where(lambda: template_of(LOOPS))
    with pytest.raises(UserError, match=r"hasn't rendered a conversation after 0.3 s"):
        where(lambda: encode_prompt(tokenizer, [USER]))
    assert time.monotonic() - began < 10


def test_what_a_template_says_is_shown_and_not_obeyed() -> None:
    text = GEMMA_2.replace("System role not supported", "\x1b]0;owned\x07No\\u202e\nsystem" + "." * 999)
    with pytest.raises(Unfit) as caught:
        template_of(text).checked([SYSTEM, USER, ASSISTANT])
    detail = caught.value.args[1]
    assert r"\x1b]0;owned\x07No\u202e system..." in detail and detail.isprintable() and len(detail) < 400


def test_a_missing_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"chat_template.jinja: no such file; .*`dvc repro prepare-base`"):
        ChatTemplate.of(tmp_path)


def test_a_chat_says_what_the_template_says(tmp_path: Path) -> None:
    """Training, evaluation and tools render by the tokenizer: the same refusal, without a traceback."""
    write_tokenizer(tmp_path, GEMMA_2.replace("System role", "\x1b[2JSystem role"))
    tokenizer = load_tokenizer(tmp_path)
    for refused in (lambda: encode(tokenizer, [SYSTEM, USER, ASSISTANT]), lambda: encode_prompt(tokenizer, [SYSTEM])):
        with pytest.raises(UserError, match=r"refuses a conversation of system.*: \\x1b\[2JSystem role not supported"):
            refused()


def test_neither_torch_nor_transformers_is_loaded_for_it(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, GEMMA_2)
    code = (
        "import sys; from pathlib import Path; from stages.lib.models.chat_template import ChatTemplate; "
        f"ChatTemplate.of(Path({str(tmp_path)!r})); print({{'torch', 'transformers'}}.intersection(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
