"""What a terminal would obey is seen and not sent, wherever text from outside is printed."""

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from conftest import ROOT

from stages.lib.every_stage.foreign_text import in_markdown, on_one_line, sentence_in_markdown, shown
from stages.lib.every_stage.records import write_json, write_jsonl
from stages.lib.pdf_qa.review_decisions import FILE, read_decisions
from tools.lib.review_rows import PREPARED

PLANTED = "빨강\x1b[31m\x1b]52;c;YQ==\x07\x9b2J\r\u202e되돌림\u2066\u200b\u2028\ud800"


def test_hangul_lines_and_emoji_stay():
    for text in ("값은 3,000원 (부가세 포함)\n\t줄", "👩‍💻 가족 👨‍👩‍👧", "한글", "می\u200cخواهم"):
        assert shown(text) == text


def test_controls_and_bidi_are_spelt():
    spelt = r"빨강\x1b[31m\x1b]52;c;YQ==\x07\x9b2J\r\u202e되돌림\u2066\u200b\u2028\ud800"
    assert shown(PLANTED) == spelt
    assert on_one_line("a\nb\tc") == r"a\nb\tc"


def harmless(output: str) -> bool:
    return not any(unicodedata.category(sign) in ("Cc", "Cf") and sign not in "\n\t" for sign in output)


def run(place: Path, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *words]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "utf-8:surrogatepass"}
    return subprocess.run(command, cwd=place, env=environment, input=typed, capture_output=True, text=True)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """An evaluation whose question and answers hold what a terminal obeys."""
    text = PLANTED[:-1]
    cell = {"value": 1.0, "low": 1.0, "high": 1.0, "n": 2, "groups": 2}
    detail = {
        "models": {name: {"seen": {"key_exact": cell}} for name in ("base", "sft", "dpo")},
        "differences": {name: {"seen": {"key_exact": cell}} for name in ("sft", "dpo")},
        "steps": {name: {"seen": {"key_exact": cell}} for name in ("sft", "dpo")},
        "facts": {name: {"known": 1, "asked": 2} for name in ("base", "sft", "dpo")},
        "demo": {"question": text, "answers": dict.fromkeys(("base", "sft", "dpo"), text)},
    }
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/eval_detail.json").write_text(json.dumps(detail))
    return tmp_path


def test_scores_send_nothing_that_a_terminal_obeys(planted):
    done = run(planted, "tools.scores")
    assert done.returncode == 0, done.stderr
    assert harmless(done.stdout) and r"\x1b]52;c;YQ==" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "euc-kr"])
def test_letters_that_the_terminal_lacks_are_spelt(planted, encoding):
    command = [sys.executable, "-m", "tools.scores"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, cwd=planted, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    hangul = any("가" <= sign <= "힣" for sign in done.stdout.decode(encoding))
    assert hangul == (encoding == "euc-kr") and (b"\\u" in done.stdout)


def test_messages_send_nothing_that_a_terminal_obeys(tmp_path):
    """A revision with escapes."""
    done = run(tmp_path, "tools.compare", "\x1b[2Jx")
    assert done.returncode == 1 and harmless(done.stderr) and r"\x1b[2J" in done.stderr
    assert "Traceback" not in done.stderr


def test_review_sends_nothing_that_a_terminal_obeys(tmp_path):
    messages = [{"role": role, "content": PLANTED[:-1]} for role in ("user", "assistant")]
    row = {"id": PLANTED[:-1], "messages": messages, "source": {"file": PLANTED[:-1]}}
    (tmp_path / PREPARED).mkdir(parents=True)
    for split, rows in (("train", [row]), ("seen", []), ("unseen", [])):
        write_jsonl(tmp_path / PREPARED / f"{split}.jsonl", rows)
    write_jsonl(tmp_path / PREPARED / "rejects.jsonl", [])
    write_json(tmp_path / PREPARED / "data_report.json", {})
    done = run(tmp_path, "tools.review", "--terminal", typed="a\nu\n")
    assert done.returncode == 0 and harmless(done.stdout) and r"\x1b]52" in done.stdout
    (kept,), _ = read_decisions(tmp_path / FILE)
    assert (kept.question, kept.answer) == (PLANTED[:-1], PLANTED[:-1])  # what is kept is what was there


def test_comparisons_send_nothing_that_a_terminal_obeys(tmp_path):
    """Answers, a value of params.lock.yaml and the subject of a commit, with one answer that became right."""
    text = PLANTED[:-1]
    names = ("sets_sha256", "signatures")
    detail = {"models": {"dpo": {}}, "tokenizer_sha256": "t", "settings": {"resamples": 20, "seed": 1}}
    row = {"id": "q", "fact_id": "f", "split": "seen", "model": "dpo", "prompt": text, "reference": text}
    likelihood = {"nats": 1.0, "tokens": 1, "characters": 1}
    scored = {"prediction": text, "scores": {"key_exact": 0.0}, "likelihood": likelihood}
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/eval_detail.json").write_text(json.dumps({**detail, **{name: {} for name in names}}))
    (tmp_path / "metrics/predictions.jsonl").write_text(json.dumps({**row, **scored}) + "\n")
    (tmp_path / "params.lock.yaml").write_text(json.dumps({"sft": {"x": text}}))
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@graft.example"]
    for command in (
        ["git", "init", "--quiet"],
        [sys.executable, "-m", "dvc", "init", "--quiet"],
        ["git", "add", "--all"],
        [*git, "commit", "--quiet", "--message", text.replace("\r", "")],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    (tmp_path / "params.lock.yaml").write_text("sft: {x: 1}")
    scored |= {"prediction": text + "more", "scores": {"key_exact": 1.0}}
    (tmp_path / "metrics/predictions.jsonl").write_text(json.dumps({**row, **scored}) + "\n")
    done = run(tmp_path, "tools.compare", "HEAD")
    assert done.returncode == 0, done.stderr
    assert harmless(done.stdout) and "Became right (1)" in done.stdout
    assert done.stdout.count(r"\x1b]52;c;YQ==") == 6  # subject, value, question, wanted, both answers


MARKDOWN = {
    "<script>alert(1)</script>": r"\<script\>alert(1)\</script\>",
    "[click](http://evil.example) ![x](y)": r"\[click\](http:\//evil.example) !\[x\](y)",
    "a | b\n\n# c": r"a \| b # c",
    "# heading": r"\# heading",
    "1. item": r"1\. item",
    "- item": r"\- item",
    "`code` *strong* _em_ snake_case": r"\`code\` \*strong\* \_em\_ snake_case",
    "&lt;b&gt; \\": r"\&lt;b\&gt; \\",
    "초롱돌로 417, 6층입니다. 값은 3,000원 (부가세 포함)": "초롱돌로 417, 6층입니다. 값은 3,000원 (부가세 포함)",
    "\x1b[2J\u202e": r"\\x1b\[2J\\u202e",
}


@pytest.mark.parametrize("text", MARKDOWN)
def test_nothing_in_markdown_is_markup(text):
    assert in_markdown(text) == MARKDOWN[text]


def test_a_sentence_keeps_its_own_markup():
    found = sentence_in_markdown("`seen` of a<b>.pdf [x](http://evil.example)\x1b was not read: neither *.jsonl")
    assert found == r"`seen` of a\<b\>.pdf \[x\](http:\//evil.example)\x1b was not read: neither *.jsonl"
