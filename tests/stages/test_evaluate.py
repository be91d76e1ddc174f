"""Evaluation of three models: the files, their shape, and figures that a known model must get."""

import json
import shutil
from dataclasses import replace

import pytest
from conftest import flip_a_bit
from transformers import BertConfig, BertModel

from stages import evaluate as module
from stages.evaluate import DETAIL, EVAL, PREDICTIONS, evaluate
from stages.lib.evaluation import generation, likelihood, metric_checks, scoring
from stages.lib.evaluation.generation import Answer
from stages.lib.evaluation.scoring import room_for_answers, score
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import OFF, read_lineage, write_lineage
from stages.lib.every_stage.records import read_jsonl
from stages.lib.models.loading import load_tokenizer
from stages.lib.schema.choices import Dtype
from stages.lib.schema.evaluation import Evaluate

pytestmark = pytest.mark.chain

RECORD = {
    "messages": [{"role": "user", "content": "주소?"}, {"role": "assistant", "content": "초롱돌로 417, 6층입니다."}],
    "key": ["초롱돌로 417", "6층"],
    "answerable": True,
}


SETS = {"seen", "unseen", "unanswerable", "control_en", "control_ko", "preferences"}


def section(**changes):
    return Evaluate(**{"max_new_tokens": 3, "bootstrap_resamples": 20, "seed": 1, "threads": 1, **changes})


@pytest.fixture
def three_models(place):
    for name in ("sft-merged", "dpo-merged"):
        shutil.copytree(place / "models/base", place / "models" / name)
    for optional in ("preference-merged", "rl-merged", "pruned", "healed-merged"):
        (place / "models" / optional).mkdir()
        write_lineage(place / "models" / optional, OFF)
    return place


def figures(root):
    return json.loads((root / EVAL).read_text(encoding="utf-8"))


def test_three_equal_models_score_equally(three_models):
    evaluate(section(), three_models)
    found = figures(three_models)
    assert found["base"] == found["sft"] == found["dpo"]
    assert found["base"]["seen"]["key_exact"] == 0
    assert found["base"]["control_en"]["perplexity"] > 100  # random weights
    assert found["base"]["control_ko"]["perplexity"] > 100
    assert set(found["base"]["seen"]) == {
        "bits_per_character", "bleu", "characters", "chrf", "empty", "key_exact", "key_recall", "korquad_exact",
        "korquad_f1", "over_refusal_rate", "perplexity", "repetition", "rouge_l", "stop_rate",
    }  # fmt: skip
    assert "refusal_rate" in found["base"]["unanswerable"]
    assert not {"key_exact", "perplexity"} & set(found["base"]["unanswerable"])
    assert set(found["base"]["preferences"]) == {"accuracy", "margin"}
    detail = json.loads((three_models / DETAIL).read_text(encoding="utf-8"))
    assert detail["models"]["sft"]["seen"]["key_exact"]["n"] == 90
    assert detail["differences"]["dpo"]["seen"]["chrf"] == {"value": 0, "low": 0, "high": 0, "n": 90, "groups": 30}
    assert set(detail["sets_sha256"]) == {"seen", "unseen", "unanswerable", "control", "preferences"}
    assert detail["settings"]["decoding"] == "greedy"
    assert set(detail["steps"]) == {"sft", "dpo"}
    assert detail["started_from"] == {}
    assert detail["steps"]["dpo"]["unanswerable"]["refusal_rate"]["n"] == 114
    assert detail["facts"]["dpo"] == {"known": 0, "asked": 30}
    predictions = list(read_jsonl(three_models / PREDICTIONS))
    assert {row["model"] for row in predictions} == {"base", "sft", "dpo"}
    assert {row["split"] for row in predictions} == SETS
    assert {row["split"] for row in predictions if "prediction" in row} == {"seen", "unseen", "unanswerable"}


@pytest.mark.parametrize("name", ["base", "sft-merged", "dpo-merged"])
def test_a_flipped_bit_in_a_model_is_refused(three_models, name):
    directory = three_models / "models" / name
    if directory.is_symlink():
        source = directory.resolve()
        directory.unlink()
        shutil.copytree(source, directory)
    flip_a_bit(directory / "model.safetensors", 5000)
    with pytest.raises(UserError, match=f"models/{name}: model.safetensors isn't what its stage wrote"):
        evaluate(section(), three_models)
    assert not (three_models / EVAL).exists()


def test_all_models_are_scored_in_batches_of_one_size(three_models, monkeypatch):
    """Less memory is free by the time that the second one is there."""
    free = iter([8 * 2**30, 2**20, 2**20])
    machine = scoring.find_hardware
    monkeypatch.setattr(scoring, "find_hardware", lambda: replace(machine(), free_memory=next(free)))
    facts = evaluate(section(), three_models)
    assert facts["batch_tokens"] == {"generated": 16384, "scored": 2048}
    found = figures(three_models)
    assert found["base"] == found["sft"] == found["dpo"]
    assert next(free) == 2**20  # it was looked at once


@pytest.mark.slow
def test_in_float32_scores_do_not_depend_on_the_batch(three_models, monkeypatch):
    found = []
    for size in (1, 4, 16):

        def batches(lengths, budget, size=size):
            order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
            return [order[start : start + size] for start in range(0, len(order), size)]

        monkeypatch.setattr(generation, "batches_by_length", batches)
        monkeypatch.setattr(likelihood, "batches_by_length", batches)
        evaluate(section(dtype=Dtype.float32, max_new_tokens=8), three_models)
        found.append(figures(three_models))
    evaluate(section(dtype=Dtype.float32, max_new_tokens=8, continuous_batching=True), three_models)
    found.append(figures(three_models))
    assert [changed(found[0], other) for other in found[1:]] == [{}, {}, {}]


def changed(left, right):
    """Figures that differ, with both values."""
    return {
        (model, split, name): (value, right[model][split][name])
        for model, splits in left.items()
        for split, cells in splits.items()
        for name, value in cells.items()
        if value != right[model][split][name]
    }


@pytest.mark.slow
def test_right_padding_would_change_the_scores(three_models, monkeypatch):
    """The planted defect is seen by the test above."""

    def padded_right(prompts, pad):
        width = max(len(ids) for ids in prompts)
        return (
            [ids + [pad] * (width - len(ids)) for ids in prompts],
            [[1] * len(ids) + [0] * (width - len(ids)) for ids in prompts],
        )

    evaluate(section(dtype=Dtype.float32, max_new_tokens=8), three_models)
    right = figures(three_models)
    monkeypatch.setattr(generation, "padded_left", padded_right)
    evaluate(section(dtype=Dtype.float32, max_new_tokens=8), three_models)
    assert figures(three_models) != right


def test_a_broken_metric_writes_no_score(three_models, monkeypatch):
    monkeypatch.setattr(metric_checks, "key_exact", lambda key, answer: 1.0)
    with pytest.raises(UserError, match="finds 417 in 4170"):
        evaluate(section(), three_models)
    assert not (three_models / EVAL).exists()


def test_a_model_with_another_template_is_refused(three_models):
    template = three_models / "models/dpo-merged/chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    write_lineage(template.parent, read_lineage(template.parent))
    with pytest.raises(UserError, match=r"models/dpo-merged: found a chat_template.jinja that is not models/base's"):
        evaluate(section(), three_models)


def test_prompts_that_no_model_was_trained_on_are_refused(three_models):
    """The same template for all three, whose prompt is not a prefix of prompt + answer."""
    base = three_models / "models/base"
    shared = base.resolve()
    base.unlink()
    shutil.copytree(shared, base)
    for name in ("base", "sft-merged", "dpo-merged"):
        template = three_models / "models" / name / "chat_template.jinja"
        right = template.read_text(encoding="utf-8")
        wrong = right.replace("assistant\\n' }}\n{%- endif", "bot\\n' }}\n{%- endif")
        assert wrong != right
        template.write_text(wrong, encoding="utf-8")
        write_lineage(template.parent, read_lineage(template.parent))
    with pytest.raises(UserError, match="not a prefix"):
        evaluate(section(), three_models)
    assert not (three_models / EVAL).exists()


def test_bertscore_is_added_where_a_model_is_given(three_models, tiny_model, tmp_path):
    encoder = tmp_path / "encoder"
    config = BertConfig(
        vocab_size=600, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(encoder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_model / name, encoder / name)
    evaluate(section(bertscore_model=str(encoder)), three_models)
    assert 0 < figures(three_models)["base"]["seen"]["bertscore"] <= 1
    detail = json.loads((three_models / DETAIL).read_text(encoding="utf-8"))
    assert detail["signatures"]["bertscore"].startswith("last layer|")


def test_empty_sets_are_left_out_and_no_set_at_all_is_an_error(three_models):
    """Own data may have one wording a fact, and then no seen set."""
    data = three_models / "data"
    original = data.resolve()
    data.unlink()
    shutil.copytree(original, data)
    (data / "prepared/pdf_qa/seen.jsonl").write_text("", encoding="utf-8")
    evaluate(section(), three_models)
    assert set(figures(three_models)["base"]) == SETS - {"seen"}
    for name in ("pdf_qa/unseen.jsonl", "pdf_qa/unanswerable.jsonl", "ultrachat/evaluation.jsonl"):
        (data / "prepared" / name).write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="no evaluation rows"):
        evaluate(section(), three_models)


def test_answers_have_room_for_an_eighth_more_than_the_longest_reference(three_models):
    evaluate(section(max_new_tokens=0), three_models)
    detail = json.loads((three_models / DETAIL).read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(three_models / "models/base")
    rows = [row for name in ("seen", "unseen", "unanswerable")
            for row in read_jsonl(three_models / f"data/prepared/pdf_qa/{name}.jsonl")]  # fmt: skip
    longest = max(len(tokenizer.encode(row["messages"][-1]["content"], add_special_tokens=False)) for row in rows)
    assert detail["settings"]["max_new_tokens"] == (longest + 1) * 9 // 8
    assert room_for_answers(tokenizer, []) == 16


def test_a_right_answer_scores_full_and_a_wrong_one_does_not():
    right = score(RECORD, Answer("초롱돌로 417, 6층입니다.", stopped=True, tokens=9))
    names = ("chrf", "bleu", "rouge_l", "korquad_exact", "korquad_f1", "stop_rate", "key_exact", "key_recall")
    assert all(right[name] == 1 for name in names)
    assert right["empty"] == right["repetition"] == right["over_refusal_rate"] == 0
    wrong = score(RECORD, Answer("초롱돌로 413, 6층입니다.", stopped=False, tokens=9))
    assert wrong["key_exact"] == 0
    assert wrong["chrf"] > 0.6  # why chrF is no headline


def test_an_unanswerable_question_is_scored_by_refusal_alone():
    refusal = {**RECORD, "key": [], "answerable": False}
    assert score(refusal, Answer("알 수 없습니다.", stopped=True, tokens=3))["refusal_rate"] == 1
    assert score(refusal, Answer("417번지입니다.", stopped=True, tokens=3))["refusal_rate"] == 0
    assert "key_exact" not in score(refusal, Answer("모릅니다.", stopped=True, tokens=3))


def test_models_are_compared_with_the_base():
    assert next(iter(module.MODELS)) == "base"
