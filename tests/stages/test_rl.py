"""Reinforcement learning on the tiny model: what it refuses, where it starts, what it writes."""

import csv
import json
import shutil

import pytest
import torch
from conftest import tiny_training

import stages.rl
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import OFF, read_lineage
from stages.lib.every_stage.records import read_jsonl, write_jsonl
from stages.lib.schema.choices import Dtype, Quantization, RlAlgorithm, RlReward
from stages.lib.schema.merging import Merge
from stages.lib.schema.reinforcement import Reward, Rl
from stages.lib.schema.training import Sft
from stages.merge import merge
from stages.reward import reward
from stages.rl import LOG, METRICS, OUT, PDF_QA, SAMPLES, rl
from stages.sft import sft


def section(**changes):
    values = {
        "enabled": True,
        "dtype": Dtype.float32,
        "quantization": Quantization.none,
        "batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "max_steps": 2,
        **changes,
    }
    return Rl(**tiny_training(**values))


def ascii_alone():
    """A reward that a model of random weights can learn: for characters of ASCII."""

    def reward(records, answers):
        return [sum(character.isascii() for character in answer.text) / 12 for answer in answers]

    return {"key_facts": reward}


@pytest.fixture
def merged(place):
    sft(Sft(**tiny_training(max_steps=1)), place)
    merge(Merge(), place)
    shared = place.joinpath("data").resolve()
    place.joinpath("data").unlink()
    shutil.copytree(shared, place / "data")
    return place


@pytest.fixture
def learnable(merged, monkeypatch):
    monkeypatch.setattr(stages.rl, "rewards_of", lambda kind, tokenizer, scorer: ascii_alone())
    return merged


def log(root):
    with (root / LOG).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_off_says_so_and_nothing_else(place):
    rl(Rl(**tiny_training(batch_size=8)), place)
    assert [path.name for path in (place / OUT).iterdir()] == ["lineage.json"]
    assert read_lineage(place / OUT) == OFF
    assert (place / LOG).read_text(encoding="utf-8").startswith("step,loss")
    assert (place / SAMPLES).read_text(encoding="utf-8") == ""


@pytest.mark.chain
@pytest.mark.parametrize("algorithm", RlAlgorithm)
def test_it_starts_at_its_reference_and_writes_answers_with_their_rewards(learnable, algorithm):
    rl(section(algorithm=algorithm), learnable)
    found = json.loads((learnable / METRICS).read_text(encoding="utf-8"))
    assert found["step0_kl"] == 0
    assert found["before"]["mixed"] > 0
    assert [row["step"] for row in log(learnable)] == ["1", "2"]
    names = {path.name for path in (learnable / OUT).iterdir()}
    assert {"adapter_model.safetensors", "lineage.json", "tokenizer.json"} <= names
    lines = list(read_jsonl(learnable / SAMPLES))
    assert lines and all(len(line["before"]) == len(line["after"]) == 4 for line in lines)
    assert {"answer", "stopped", "rewards", "reward"} == set(lines[0]["before"][0])


@pytest.mark.chain
@pytest.mark.parametrize("algorithm", RlAlgorithm)
def test_an_adapter_that_does_not_start_at_zero_is_refused(learnable, monkeypatch, algorithm):
    made = stages.rl.lora_config

    def elsewhere(*given):
        config = made(*given)
        config.init_lora_weights = False
        return config

    monkeypatch.setattr(stages.rl, "lora_config", elsewhere)
    with pytest.raises(UserError, match="the KL divergence from the reference is .*needed 0"):
        rl(section(algorithm=algorithm), learnable)
    assert not (learnable / OUT).exists()


@pytest.mark.chain
def test_without_a_reference_there_is_no_kl(learnable):
    rl(section(beta=0.0, max_steps=1), learnable)
    assert "kl" not in log(learnable)[0]


@pytest.mark.chain
def test_passes_of_another_size_give_the_same_figures(learnable):
    figures = []
    for rows in (8, 2):
        rl(section(micro_batch_size=rows, max_steps=2), learnable / str(rows))
        figures.append([{key: float(value) for key, value in row.items()} for row in log(learnable / str(rows))])
    for one, other in zip(*figures, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=2e-4)


@pytest.mark.chain
def test_the_reward_rises(learnable):
    rl(section(max_steps=25, batch_size=16, num_generations=8, learning_rate=0.02, beta=0.0), learnable)
    rewards = [float(row["reward"]) for row in log(learnable)]
    assert sum(rewards[-5:]) > sum(rewards[:5]) * 1.1


@pytest.mark.chain
def test_nothing_to_learn_is_refused(merged):
    with pytest.raises(UserError, match="found 0 of 24 questions whose 4 answers differ in reward"):
        rl(section(max_completion_length=2), merged)  # two tokens state no fact
    assert not (merged / OUT).exists()


@pytest.mark.chain
def test_questions_of_evaluation_sets_are_refused(merged):
    (row, *_) = read_jsonl(PDF_QA / "seen.jsonl")
    path = merged / PDF_QA / "train.jsonl"
    path.chmod(0o644)
    write_jsonl(path, [*list(read_jsonl(path)), {**row, "id": "planted"}])
    with pytest.raises(UserError, match="questions to be rewarded on ask evaluation questions: planted"):
        rl(section(), merged)


@pytest.mark.chain
def test_a_reward_model_that_is_off_is_refused(merged):
    reward(Reward(**tiny_training()), merged)
    with pytest.raises(UserError, match=r"models/reward: found no reward model.*reward\.enabled=true"):
        rl(section(reward=RlReward.model), merged)


@pytest.mark.chain
@pytest.mark.parametrize("kind", [RlReward.model, RlReward.both])
def test_the_reward_model_rewards(merged, kind):
    reward(Reward(**tiny_training(enabled=True, dtype=Dtype.float32, max_length=512, max_steps=4)), merged)
    rl(section(reward=kind, max_steps=1), merged)
    names = set(next(read_jsonl(merged / SAMPLES))["before"][0]["rewards"])
    assert ("key_facts" in names) == (kind is RlReward.both)
    assert "reward_model" in names
    assert "reward_weights_sha256" in read_lineage(merged / OUT)


def test_vllm_without_its_package_is_refused():
    with pytest.raises(UserError, match=r"rl\.use_vllm: found True, needed false, or the package vllm"):
        section(use_vllm=True)


@pytest.mark.chain
def test_vllm_without_a_gpu_is_refused(merged, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    asked = section()
    asked.use_vllm = True
    with pytest.raises(UserError, match=r"rl\.use_vllm: found true and no GPU"):
        rl(asked, merged)


def test_a_batch_holds_whole_groups_of_answers():
    with pytest.raises(UserError, match=r"rl\.num_generations: found 3, needed a number that divides rl\.batch_size=8"):
        section(num_generations=3)
