"""DoRA, rsLoRA, LoRA+ and another start: each trains, starts at its base, merges, and is what it says."""

import json

import pytest
import torch
from conftest import tiny_training
from safetensors.torch import load_file

from stages.dpo import METRICS as DPO_METRICS
from stages.dpo import dpo
from stages.lib.schema.choices import MergeBase, Quantization
from stages.lib.schema.merging import Merge
from stages.lib.schema.training import Dpo, KeepBase, Lora, Mix, Sft
from stages.lib.training.run import TrainingRun
from stages.lib.training.trainer import variant_of
from stages.merge import METRICS, merge
from stages.sft import BASE, OUT, sft

pytestmark = pytest.mark.chain

VARIANTS = {
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "gaussian": {"init_lora_weights": "gaussian"},
    "loraplus": {"loraplus_lr_ratio": 16.0},
    "all": {"use_dora": True, "use_rslora": True, "init_lora_weights": "gaussian", "loraplus_lr_ratio": 4.0},
}


def lora(**variant):
    return Lora(r=4, lora_alpha=8, lora_dropout=0.0, **variant)


def trained(place, **changes):
    """The weights of an adapter that SFT made, by name."""
    sft(Sft(**tiny_training(**changes)), place)
    return load_file(place / OUT / "adapter_model.safetensors")


def test_plain_lora_is_given_nothing_more():
    assert variant_of(lora()) == {}


@pytest.mark.parametrize("quantization", [Quantization.none, Quantization.nf4])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_trains_to_other_weights_and_merges(place, name, quantization):
    plain = trained(place, quantization=quantization)
    other = trained(place, quantization=quantization, lora=lora(**VARIANTS[name]))
    shared = set(plain) & set(other)
    assert shared and not all(torch.equal(plain[key], other[key]) for key in shared)
    config = json.loads((place / OUT / "adapter_config.json").read_text(encoding="utf-8"))
    for key in ("use_dora", "use_rslora"):
        assert config[key] is VARIANTS[name].get(key, False)
    magnitudes = [key for key in other if "magnitude" in key]
    assert bool(magnitudes) is bool(VARIANTS[name].get("use_dora"))
    seen = MergeBase.original if quantization is Quantization.none else MergeBase.dequantized
    merge(Merge(base=seen), place)
    assert json.loads((place / METRICS).read_text(encoding="utf-8"))["kl"] < 0.01


@pytest.mark.parametrize("name", VARIANTS)
def test_dpo_and_a_held_base_start_at_their_reference(place, name):
    """keep_base refuses a teacher that isn't the model at its start, and DPO a margin that isn't 0."""
    held = {"keep_base": KeepBase(weight=1.0, max_tokens=32), "mix": Mix(ultrachat=1, pdf_qa=1)}
    trained(place, lora=lora(**VARIANTS[name]), **held)
    merge(Merge(max_kl=1.0), place)
    dpo(Dpo(**tiny_training(beta=0.1, max_steps=1, lora=lora(**VARIANTS[name]))), place)
    assert json.loads((place / DPO_METRICS).read_text(encoding="utf-8"))["step0_margin"] == 0.0


def test_b_learns_faster_by_the_ratio_with_loraplus(place, monkeypatch):
    rates = {}
    train = TrainingRun.train

    def looked_at(run, trainer, folder):
        names = {parameter: name for name, parameter in trainer.model.named_parameters()}
        for group in trainer.optimizer.param_groups:
            for parameter in group["params"]:
                rates[names[parameter]] = (group["lr"], group["weight_decay"])
        train(run, trainer, folder)

    monkeypatch.setattr(TrainingRun, "train", looked_at)
    trained(place, lora=lora(loraplus_lr_ratio=16.0), learning_rate=1e-3, weight_decay=0.1)
    by_kind = {kind: {rate for name, rate in rates.items() if kind in name} for kind in ("lora_A", "lora_B")}
    assert by_kind == {"lora_A": {(1e-3, 0.1)}, "lora_B": {(16e-3, 0.1)}}
    assert len(rates) == 2 * len([name for name in rates if "lora_A" in name]) > 0


def test_equal_runs_of_dora_with_loraplus_have_equal_bytes(place):
    first = trained(place, lora=lora(**VARIANTS["all"]))
    second = trained(place, lora=lora(**VARIANTS["all"]))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert BASE.is_dir()
