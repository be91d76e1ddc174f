"""merge-rl adds rl's adapter to the merged SFT model, and passes "off" on."""

import json

import pytest
from conftest import tiny_training
from peft import LoraConfig, get_peft_model

from stages.lib.every_stage.lineage import OFF, file_sha256, read_lineage, weights_sha256, write_lineage
from stages.lib.models.loading import load_16bit
from stages.lib.schema.merging import Merge, MergeRl
from stages.lib.schema.reinforcement import Rl
from stages.lib.schema.training import Sft
from stages.lib.training.trainer import save_adapter
from stages.merge import merge
from stages.merge_rl import ADAPTER, BASE, METRICS, OUT, merge_rl
from stages.rl import rl
from stages.sft import sft

pytestmark = pytest.mark.chain


def test_off_is_passed_on(place):
    rl(Rl(**tiny_training(batch_size=8)), place)
    merge_rl(MergeRl(), place)
    assert [path.name for path in (place / OUT).iterdir()] == ["lineage.json"]
    assert read_lineage(place / OUT) == OFF


def test_merges_onto_the_merged_sft_model(place):
    sft(Sft(**tiny_training(max_steps=1)), place)
    merge(Merge(), place)
    model = load_16bit(BASE, "float32")
    save_adapter(get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")), place / ADAPTER)
    lineage = {
        "kind": "adapter",
        "base_weights_sha256": weights_sha256(BASE),
        "chat_template_sha256": file_sha256(BASE / "chat_template.jinja"),
        "arguments": {"quantization": "none", "dtype": "float32"},
    }
    write_lineage(place / ADAPTER, lineage)
    merge_rl(MergeRl(), place)
    assert (place / OUT / "model.safetensors").is_file()
    assert json.loads((place / METRICS).read_text(encoding="utf-8"))["kl"] < 0.1
