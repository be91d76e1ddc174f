"""Evaluation of three models: the files, their shape, and figures that a known model must get."""

import json
import shutil

import pytest

from stages.evaluate import DETAIL, EVAL, PREDICTIONS, REPORT, evaluate
from stages.lib.errors import UserError
from stages.lib.generation import Answer
from stages.lib.lineage import OFF, write_lineage
from stages.lib.records import read_jsonl
from stages.lib.schema import Evaluate
from stages.lib.scoring import chrf_metric, score


@pytest.fixture
def three_models(place):
    for name in ("sft-merged", "dpo-merged"):
        shutil.copytree(place / "models/base", place / "models" / name)
    (place / "models/orpo-merged").mkdir()
    write_lineage(place / "models/orpo-merged", OFF)
    return place


def test_three_equal_models_score_equally(three_models):
    evaluate(Evaluate(max_new_tokens=3, bootstrap_resamples=20, seed=1, threads=1), three_models)
    figures = json.loads((three_models / EVAL).read_text(encoding="utf-8"))
    assert figures["base"] == figures["sft"] == figures["dpo"]
    assert figures["base"]["seen"]["key_exact"] == 0
    assert figures["base"]["control"]["perplexity"] > 100  # random weights
    detail = json.loads((three_models / DETAIL).read_text(encoding="utf-8"))
    assert detail["models"]["sft"]["seen"]["key_exact"]["n"] == 30
    assert set(detail["sets_sha256"]) == {"seen", "unseen", "control", "preferences"}
    predictions = list(read_jsonl(three_models / PREDICTIONS))
    assert {row["model"] for row in predictions} == {"base", "sft", "dpo"}
    assert "| seen | key_exact | 30 |" in (three_models / REPORT).read_text(encoding="utf-8")


def test_empty_sets_are_left_out_and_no_set_at_all_is_an_error(three_models):
    """Own data may have one wording a fact, and then no seen set."""
    data = three_models / "data"
    original = data.resolve()
    data.unlink()
    shutil.copytree(original, data)
    (data / "prepared/pdf_qa/seen.jsonl").write_text("", encoding="utf-8")
    options = {"max_new_tokens": 2, "bootstrap_resamples": 5, "seed": 1, "threads": 1}
    evaluate(Evaluate(**options), three_models)
    figures = json.loads((three_models / EVAL).read_text(encoding="utf-8"))
    assert set(figures["base"]) == {"unseen", "control", "preferences"}
    for name in ("pdf_qa/unseen.jsonl", "ultrachat/evaluation.jsonl"):
        (data / "prepared" / name).write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="no evaluation rows"):
        evaluate(Evaluate(**options), three_models)


def test_a_right_answer_scores_full_and_a_wrong_one_does_not():
    record = {
        "messages": [
            {"role": "user", "content": "주소?"},
            {"role": "assistant", "content": "초롱돌로 417, 6층입니다."},
        ],
        "key": ["초롱돌로 417", "6층"],
        "answerable": True,
    }
    right = score(record, Answer("초롱돌로 417, 6층입니다.", stopped=True, tokens=9), chrf_metric())
    assert right == {"chrf": 1.0, "stop_rate": 1.0, "key_exact": 1.0, "key_recall": 1.0}
    wrong = score(record, Answer("초롱돌로 413, 6층입니다.", stopped=False, tokens=9), chrf_metric())
    assert wrong["key_exact"] == 0
    assert wrong["chrf"] > 0.6  # why chrF is no headline
    refusal = {**record, "key": [], "answerable": False}
    assert "key_exact" not in score(refusal, Answer("모릅니다.", stopped=True, tokens=3), chrf_metric())
