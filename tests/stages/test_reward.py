"""The reward model: off it costs nothing; on it starts at ln 2, learns, and scores the same once it is loaded again."""

import csv
import json
import math

import pytest
import torch
from conftest import tiny_training

import stages.reward
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import OFF, read_lineage
from stages.lib.every_stage.records import read_jsonl
from stages.lib.models.chat import encode_answer
from stages.lib.models.loading import load_tokenizer
from stages.lib.rewards.reward_model import load_scorer, refuse_other_scores, scores
from stages.lib.schema.choices import Dtype, Quantization
from stages.lib.schema.merging import Merge
from stages.lib.schema.reinforcement import Reward
from stages.lib.schema.training import Sft
from stages.merge import merge
from stages.reward import BASE, LOG, METRICS, OUT, PREFERENCES, reward
from stages.sft import sft


def section(**changes):
    return Reward(**tiny_training(**{"enabled": True, "dtype": Dtype.float32, "max_length": 512, **changes}))


@pytest.fixture
def merged(place):
    sft(Sft(**tiny_training(max_steps=1)), place)
    merge(Merge(), place)
    return place


def test_off_says_so_and_nothing_else(place):
    reward(Reward(**tiny_training()), place)
    assert [path.name for path in (place / OUT).iterdir()] == ["lineage.json"]
    assert read_lineage(place / OUT) == OFF
    assert (place / LOG).read_text(encoding="utf-8").startswith("step,loss")
    assert json.loads((place / METRICS).read_text(encoding="utf-8")) == {}


@pytest.mark.chain
@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [(Quantization.nf4, Dtype.float32), (Quantization.none, Dtype.float32), (Quantization.nf4, Dtype.bfloat16)],
)
def test_on_it_learns_which_answer_is_better_and_scores_the_same_from_disk(merged, quantization, dtype):
    reward(section(quantization=quantization, dtype=dtype, max_steps=12, learning_rate=0.01), merged)
    found = json.loads((merged / METRICS).read_text(encoding="utf-8"))
    assert found["step0_loss"] == round(math.log(2), 6)
    assert found["reload_difference"] < 1e-3
    assert 0 <= found["held_out_accuracy"]["low"] <= found["held_out_accuracy"]["high"] <= 1
    assert -1 <= found["correlation_with_length"] <= 1
    with (merged / LOG).open(encoding="utf-8") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert sum(losses[-3:]) < sum(losses[:3])
    tokenizer = load_tokenizer(BASE)
    rows = [
        [token for part in encode_answer(tokenizer, pair["prompt"], pair["chosen"]) for token in part]
        for pair in list(read_jsonl(PREFERENCES / "evaluation.jsonl"))[:4]
    ]
    model, dtype = load_scorer(OUT, BASE)
    together = scores(model, rows, tokenizer.pad_token_id, dtype)
    alone = [scores(model, [row], tokenizer.pad_token_id, dtype)[0] for row in rows]
    assert together == pytest.approx(alone, abs=1e-4 if dtype is torch.float32 else 0.1)
    assert len({round(score, 4) for score in together}) > 1


@pytest.mark.chain
def test_a_head_that_peft_would_leave_out_is_refused(merged, monkeypatch):
    made = stages.reward.lora_config

    def of_another_task(*given):
        config = made(*given)
        kind = type(config)

        class Stubborn(kind):
            def __setattr__(self, name, value):
                super().__setattr__(name, None if name == "task_type" else value)

        config.__class__ = Stubborn
        return config

    monkeypatch.setattr(stages.reward, "lora_config", of_another_task)
    with pytest.raises(UserError, match="head is frozen.*task_type=SEQ_CLS"):
        reward(section(), merged)
    assert not (merged / OUT).exists()


@pytest.mark.chain
def test_a_head_that_does_not_start_at_zeros_is_refused(merged, monkeypatch):
    monkeypatch.setattr(torch.nn.init, "zeros_", lambda weight: weight)
    with pytest.raises(UserError, match="needed ln 2"):
        reward(section(), merged)


@pytest.mark.chain
def test_scores_that_saving_changes_are_refused(merged, monkeypatch):
    def other(tuning, model, rows, wanted):
        return refuse_other_scores(tuning, model, rows, [score + 1 for score in wanted])

    monkeypatch.setattr(stages.reward, "refuse_other_scores", other)
    with pytest.raises(UserError, match="saved and loaded again.*differ by up to 1"):
        reward(section(max_steps=1), merged)
    assert not (merged / OUT).exists()


@pytest.mark.chain
def test_padding_that_ends_answers_is_refused(merged, monkeypatch):
    import stages.lib.rewards.reward_model as module

    def with_pad_as_stop(directory):
        tokenizer = load_tokenizer(directory)
        tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    monkeypatch.setattr(module, "load_tokenizer", with_pad_as_stop)
    with pytest.raises(UserError, match="as padding, which also ends answers"):
        reward(section(), merged)
