"""DPO on the tiny merged model: starts at ln 2, and counts what it leaves out."""

import csv
import json
import math
import shutil

import pytest
from conftest import tiny_training
from safetensors.torch import load_file, save_file

import stages.dpo
from stages.dpo import BASE, LOG, METRICS, OUT, dpo
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import write_jsonl
from stages.lib.schema.choices import DpoLoss
from stages.lib.schema.merging import Merge
from stages.lib.schema.training import Dpo, Sft
from stages.merge import merge
from stages.sft import sft

pytestmark = pytest.mark.chain


@pytest.fixture
def merged(place):
    sft(Sft(**tiny_training(max_steps=1)), place)
    merge(Merge(), place)
    return place


@pytest.mark.slow
def test_starts_at_ln_2_and_learns_to_prefer(merged):
    dpo(Dpo(**tiny_training(beta=0.5, max_steps=60, learning_rate=0.02)), merged)
    with (merged / LOG).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["loss"]) == pytest.approx(math.log(2), abs=1e-6)
    assert float(rows[0]["reward_margin"]) == 0.0
    assert sum(float(row["reward_margin"]) for row in rows[-10:]) > 10  # 60 steps see each pair three times
    assert (merged / OUT / "adapter_model.safetensors").is_file()
    start = json.loads((merged / METRICS).read_text(encoding="utf-8"))
    assert start["step0_loss"] == 0.693147
    assert start["step0_margin"] == 0.0
    pairs = (merged / "data/prepared/preferences/train.jsonl").read_text(encoding="utf-8").splitlines()
    assert start["pairs"] + start["pairs_too_long"] == len(pairs) > 0


def test_an_adapter_that_does_not_start_at_zero_is_refused(merged, monkeypatch):
    plain = stages.lib.training.run.lora_config

    def planted(section, model):
        config = plain(section, model)
        config.init_lora_weights = False
        return config

    monkeypatch.setattr("stages.lib.training.run.lora_config", planted)
    with pytest.raises(UserError, match="reward margin"):
        dpo(Dpo(**tiny_training(beta=0.5)), merged)
    assert not (merged / OUT).exists()


def test_an_sft_model_that_is_not_its_merges_is_refused(merged):
    path = merged / BASE / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] += 1
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="isn't what its stage wrote"):
        dpo(Dpo(**tiny_training(beta=0.5)), merged)


def test_a_base_that_was_never_tuned_is_refused(merged):
    shutil.rmtree(merged / BASE)
    shutil.copytree(merged / "models/base", merged / BASE)
    with pytest.raises(UserError, match="says 'base', needed 'merged'"):
        dpo(Dpo(**tiny_training(beta=0.5)), merged)


def test_votes_without_a_partner_are_passed_over_and_counted(merged, capsys):
    prepared = (merged / "data").resolve()
    (merged / "data").unlink()
    shutil.copytree(prepared / "prepared", merged / "data/prepared")
    vote = {"id": "a", "prompt": [{"role": "user", "content": "언제?"}], "completion": "아홉 시.", "label": True}
    write_jsonl(merged / "data/prepared/preferences/unpaired.jsonl", [vote, vote])
    dpo(Dpo(**tiny_training(beta=0.5, max_steps=1)), merged)
    assert json.loads((merged / METRICS).read_text(encoding="utf-8"))["votes_unpaired"] == 2
    assert "2 votes on one answer are passed over; preference.algorithm=kto" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("loss", [loss for loss in DpoLoss if loss is not DpoLoss.sft])
def test_every_loss_of_trl_trains(merged, loss):
    smoothing = 0.1 if loss is DpoLoss.exo_pair else 0.0
    section = Dpo(**tiny_training(beta=0.5, loss_type=[loss], label_smoothing=smoothing, max_steps=2))
    dpo(section, merged)
    assert (merged / OUT / "adapter_model.safetensors").is_file()


def test_losses_add_up_by_their_weights_and_references_can_be_computed_before(merged):
    two = {"loss_type": [DpoLoss.sigmoid, DpoLoss.sft], "loss_weights": [1.0, 0.5]}
    dpo(Dpo(**tiny_training(beta=0.5, precompute_ref_log_probs=True, max_steps=2, **two)), merged)
    start = json.loads((merged / METRICS).read_text(encoding="utf-8"))
    assert start["step0_loss"] > 1.5  # half the likelihood of random weights' answers on top of ln 2


def test_prepared_pairs_are_a_share_only_beside_sampled_ones(merged):
    section = Dpo(**tiny_training(beta=0.5, prepared_share=0.0, max_steps=1))
    lines = (merged / "data/prepared/preferences/train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)

    def trained_on():
        dpo(section, merged)
        figures = json.loads((merged / METRICS).read_text(encoding="utf-8"))
        return figures["pairs"] + figures["pairs_too_long"], figures["pairs_beyond_share"]

    assert trained_on() == (len(lines), 0)
    (merged / stages.dpo.SAMPLED / "train.jsonl").write_text("".join(lines[:3]), encoding="utf-8")
    assert trained_on() == (3, len(lines))
