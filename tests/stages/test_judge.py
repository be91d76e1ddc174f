"""Judges with known biases behind a local endpoint: the figures expose them."""

import json
import re

import pytest
from chat_server import ChatModel, chatting

from stages.judge import DETAIL, JUDGE, PREDICTIONS, VERDICTS, VOTES, judge
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import read_jsonl, write_json, write_jsonl
from stages.lib.schema.choices import JudgeBackend
from stages.lib.schema.evaluation import Judge
from tests.ballots import BASE, DPO, vote

ANSWERS = re.compile(r"Answer A:\n(.*)\n\nAnswer B:\n(.*)\n", re.DOTALL)


def always_first(prompt):
    return "Both are fine. [[A]]"


def longest(prompt):
    left, right = ANSWERS.search(prompt).groups()
    return "[[C]]" if len(left) == len(right) else "[[A]]" if len(left) > len(right) else "[[B]]"


def right_one(prompt):
    reference = re.search(r"Reference:\n(.*)\n\nAnswer A", prompt).group(1)
    left, right = (reference in answer for answer in ANSWERS.search(prompt).groups())
    return "[[C]]" if left == right else "[[A]]" if left else "[[B]]"


@pytest.fixture
def predictions(tmp_path, monkeypatch):
    """Answers of dpo, twice as long as base's in half of the 20 questions; right in 15."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = []
    for number in range(20):
        reference = f"초롱돌로 {100 + number}"
        right = f"{reference}입니다." if number < 15 else f"달무리길 {number}입니다."
        wrong = f"모름 {number:03}입니다요."[: len(right)].ljust(len(right), ".")
        for model, text in (("dpo", right + " 감사합니다." * (2 * (number % 2))), ("base", wrong), ("sft", right)):
            row = {"id": f"q{number}", "fact_id": f"f{number}", "split": "seen", "model": model, "scores": {}}
            rows.append(row | {"prompt": f"주소 {number}?", "reference": reference, "prediction": text})
    PREDICTIONS.parent.mkdir()
    write_jsonl(PREDICTIONS, rows)
    return tmp_path


def asked(root, model, **options):
    section = Judge(JudgeBackend.openai, "judge", model.endpoint, seed=1, bootstrap_resamples=50, **options)
    judge(section, root)
    return json.loads((root / JUDGE).read_text(encoding="utf-8"))


def test_a_judge_that_always_prefers_the_first_wins_nothing(predictions):
    with chatting(ChatModel(always_first)) as model:
        figures = asked(predictions, model, pairs=["dpo:base"])
    found = figures["dpo:base"]
    assert (found["win"], found["tie"], found["loss"]) == (0, 20, 0)
    assert found["inconsistent_rate"]["value"] == 1.0
    assert found["first_position_rate"]["value"] == 1.0
    assert found["win_rate"]["value"] == 0.5
    assert any("prefers the first answer in 100%" in line for line in figures["warnings"])
    assert any("contradicts itself on 100%" in line for line in figures["warnings"])


def test_a_judge_that_prefers_long_answers_shows_it_among_those_of_like_length(predictions):
    with chatting(ChatModel(longest)) as model:
        figures = asked(predictions, model, pairs=["dpo:base"])
    found = figures["dpo:base"]
    assert found["win"] == 10
    assert found["win_rate"]["value"] == 0.75
    assert (found["win_rate_like_length"]["value"], found["win_rate_like_length"]["n"]) == (0.5, 10)
    assert found["longer_preferred_rate"]["value"] == 1.0
    assert any("prefers the longer answer in 100%" in line for line in figures["warnings"])


def test_a_fair_judge_finds_the_better_model_without_a_warning(predictions):
    with chatting(ChatModel(right_one)) as model:
        figures = asked(predictions, model, pairs=["dpo:base"])
    found = figures["dpo:base"]
    assert (found["win"], found["tie"], found["loss"]) == (15, 5, 0)
    rates = [found[f"{name}_rate"]["value"] for name in ("inconsistent", "first_position", "parse_error")]
    assert rates == [0, 0.5, 0]
    assert 0.7 < found["win_rate"]["low"] < found["win_rate"]["value"] == 0.875
    assert figures["warnings"] == []


def test_nonsense_is_counted_apart(predictions):
    answers = iter(["[[A]] or [[B]]", "No idea.", "한국어"] * 40)
    with chatting(ChatModel(lambda prompt: next(answers))) as model:
        figures = asked(predictions, model, pairs=["dpo:base"])
    found = figures["dpo:base"]
    assert found["parse_error_rate"]["value"] == 1.0
    assert (found["win"], found["tie"], found["loss"], found["win_rate"]) == (0, 0, 0, None)
    assert any("100% of its answers hold no verdict" in line for line in figures["warnings"])


def test_verdicts_are_kept_and_not_asked_for_twice(predictions):
    with chatting(ChatModel(right_one)) as model:
        first = asked(predictions, model)
        requests = len(model.requests)
        before = (predictions / VERDICTS).read_bytes()
        assert asked(predictions, model) == first
    assert requests == len(model.requests) == 2 * (20 + 10)  # dpo and sft say the same on the other 10
    assert (predictions / VERDICTS).read_bytes() == before
    verdicts = list(read_jsonl(predictions / VERDICTS))
    assert {row["verdict"] for row in verdicts} == {"first", "second", "tie"}
    assert first["dpo:sft"]["identical"] == 10
    assert first["dpo:sft"]["questions"] == 20


def test_questions_are_the_same_ones_however_many_there_are(predictions):
    with chatting(ChatModel(right_one)) as model:
        asked(predictions, model, pairs=["dpo:base"], questions=4)
        few = {row["id"] for row in read_jsonl(predictions / VERDICTS)}
        asked(predictions, model, pairs=["dpo:base"], questions=8)
        more = {row["id"] for row in read_jsonl(predictions / VERDICTS)}
    assert len(few) == 4
    assert few < more


def test_no_judge_asks_nobody(predictions):
    judge(Judge(seed=1), predictions)
    assert json.loads((predictions / JUDGE).read_text(encoding="utf-8")) == {}
    assert (predictions / VERDICTS).read_text(encoding="utf-8") == ""


def test_people_are_heard_beside_the_judge_and_without_one(predictions):
    VOTES.mkdir(parents=True)
    rows = [vote(n, verdict="first" if n < 15 else "second") for n in range(20)]
    write_jsonl(VOTES / "votes.jsonl", [*rows, vote(20, second_weights_sha256="a" * 64), {"verdict": "first"}])
    write_json(DETAIL, {"weights_sha256": {"base": BASE, "dpo-merged": DPO}})
    judge(Judge(seed=1, bootstrap_resamples=200), predictions)
    figures = json.loads((predictions / JUDGE).read_text(encoding="utf-8"))
    found = figures["people"]["dpo:base"]
    assert (found["win"], found["loss"], found["questions"]) == (15, 5, 20)
    assert 0.5 < found["win_rate"]["low"] < found["win_rate"]["value"] == 0.75 < found["win_rate"]["high"] < 1
    assert figures["people"]["dpo:base@aaaaaaa"]["win"] == 1
    assert len(figures["warnings"]) == 1 and "votes.jsonl:22: no vote: id: Field required" in figures["warnings"][0]
    with chatting(ChatModel(right_one)) as model:
        both = asked(predictions, model, pairs=["dpo:base"])
    assert both["dpo:base"]["win"] == 15
    assert both["people"]["dpo:base"]["win"] == 15


def test_a_local_model_judges(predictions, tiny_base):
    judge(
        Judge(JudgeBackend.huggingface, str(tiny_base), questions=2, max_new_tokens=4, seed=1, bootstrap_resamples=5),
        predictions,
    )
    figures = json.loads((predictions / JUDGE).read_text(encoding="utf-8"))
    assert figures["dpo:base"]["parse_error_rate"]["value"] == 1.0  # random weights


def test_an_endpoint_that_fails_is_named(predictions):
    with chatting(ChatModel(right_one, failures=[401])) as model, pytest.raises(UserError, match="Check judge and"):
        asked(predictions, model)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backend": JudgeBackend.openai, "model": "m"}, r"judge\.endpoint"),
        ({"backend": JudgeBackend.huggingface}, r"judge\.model"),
        ({"pairs": ["dpo:gpt"]}, r"judge\.pairs: found 'dpo:gpt'"),
        ({"questions": 0}, r"judge\.questions"),
    ],
)
def test_impossible_settings_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        Judge(seed=1, **options)
