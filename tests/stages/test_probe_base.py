"""What can't go through the chain is refused at its front, naming the step and what may help."""

import json
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from stages.lib.every_stage.errors import UserError
from stages.lib.probe import probe_copy
from stages.lib.schema.choices import MergeBase, Quantization
from stages.lib.schema.probe import ProbeBase, Tried
from stages.probe_base import METRICS, probe_base


def section(**changes):
    bits = Tried(quantization=Quantization.none)
    return ProbeBase(**{"sft": bits, "dpo": bits, "preference": bits, "merge_base": MergeBase.original, **changes})


def test_a_plain_model_goes_through_every_step(place, capsys):
    quantized = Tried(quantization=Quantization.nf4)
    probe_base(section(sft=quantized, merge_base=MergeBase.dequantized, preference_enabled=True), Path())
    assert json.loads(METRICS.read_text(encoding="utf-8")) == {"layers": 2, "steps": 7}
    assert "answering in batches" in capsys.readouterr().out
    assert not (place / "cache").exists()  # its checkpoints went with it
    assert not list((place / "models").glob("sft*"))


def test_a_step_that_fails_names_itself_and_what_may_help(place):
    with pytest.raises(UserError, match=r"SFT can't be done with this model: lora.target_modules: no_such_layer.*help"):
        probe_base(section(sft=Tried(quantization=Quantization.none, target_modules=["no_such_layer"])), Path())
    assert not METRICS.exists()


def test_a_model_whose_own_code_fails_is_refused_in_a_sentence(place, monkeypatch):
    def forward(self, *_, **__):
        raise AttributeError("'LinearAttentionLayer' object has no attribute 'batch_select_indices'")

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    with pytest.raises(UserError, match=r"SFT can't be done .*AttributeError: 'LinearAttentionLayer' object has no"):
        probe_base(section(), Path())


def test_rows_that_see_each_other_in_a_batch_are_refused(place, monkeypatch):
    """Training holds rows apart by itself; only answers see the padding here."""
    plain = LlamaForCausalLM.forward

    def forward(self, *args, attention_mask=None, position_ids=None, past_key_values=None, **kwargs):
        if past_key_values is not None:  # generation alone: padding is taken for words
            attention_mask = None
        return plain(
            self, *args, attention_mask=attention_mask, position_ids=position_ids, past_key_values=past_key_values,
            **kwargs,
        )  # fmt: skip

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    with pytest.raises(UserError, match=r"answering in batches can't be done .*answered together it says"):
        probe_base(section(), Path())


def test_the_copy_is_the_model_with_fewer_layers(place, tmp_path):
    assert probe_copy.write_shortened(Path("models/base"), tmp_path / "copy") == 2
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "lineage.json"} <= names
