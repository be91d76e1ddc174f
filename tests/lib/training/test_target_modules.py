"""all-linear on tiny random models of families whose layers are named and made otherwise."""

import copy
from dataclasses import asdict

import pytest
from conftest import tiny_training

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import read_lineage, write_lineage
from stages.lib.models.loading import refuse_unknown_modules
from stages.lib.models.shape import layers_of
from stages.lib.schema.training import Lora, Sft
from stages.lib.training.target_modules import all_linear, fused_experts, with_target_modules
from stages.lib.training.trainer import lora_config

LLAMA = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def build(name, **changes):
    import transformers

    config = getattr(transformers, f"{name}Config")(**changes)
    kind = "LMHeadModel" if name == "GPT2" else "ForCausalLM"
    return getattr(transformers, f"{name}{kind}")(config)


def adapted(model, names, num_layers=-1):
    """The whole names of the layers that peft adds adapters to."""
    from peft import get_peft_model

    lora = Lora(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=names, num_layers=num_layers)
    model = get_peft_model(model, lora_config(Sft(**tiny_training(lora=lora)), model))
    return {name.split(".lora_A")[0].removeprefix("base_model.model.") for name, _ in model.named_parameters()
            if "lora_A" in name}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("Llama", {**SMALL, **HEADS}, LLAMA),
        ("Qwen3", {**SMALL, **HEADS, "head_dim": 8}, LLAMA),
        ("Phi3", {**SMALL, **HEADS, "pad_token_id": 0}, ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]),
        ("GPT2", {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}, ["c_attn", "c_fc", "c_proj"]),
        ("GPTNeoX", {**SMALL, "num_attention_heads": 4},
         ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]),
        ("Mamba", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
         ["in_proj", "x_proj"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_all_linear_is_every_linear_layer_but_the_head(name, changes, expected):
    model = build(name, **changes)
    assert all_linear(model) == expected
    refuse_unknown_modules(model, expected)
    layers = adapted(model, expected)
    assert len(layers) == 2 * len({layer.rpartition(".")[2] for layer in layers}) or name == "GPT2"  # has two c_proj
    assert not any("lm_head" in layer or "embed_out" in layer for layer in layers)


def build_gemma3():
    """A language model beside one for images, whose layers have the same names."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    text = {**SMALL, **HEADS, "head_dim": 8, "sliding_window": 16}
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4))


def test_what_reads_images_is_left_out():
    model = build_gemma3()
    names = all_linear(model)
    assert {"down_proj", "gate_proj", "o_proj", "up_proj"} < set(names)  # SigLIP has none of these names
    assert all("language_model" in name for name in names if name.endswith(("q_proj", "k_proj", "v_proj")))
    refuse_unknown_modules(model, names)
    assert all("language_model" in layer for layer in adapted(model, names))


@pytest.mark.parametrize("name", ["Llama", "GPT2", "Gemma3"])
def test_the_last_layers_alone_are_adapted(name):
    gpt2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4}
    changes = {"Llama": {**SMALL, **HEADS, "num_hidden_layers": 3}, "GPT2": gpt2}
    model = build(name, **changes[name]) if name in changes else build_gemma3()
    names = all_linear(model)
    every = adapted(copy.deepcopy(model), names)
    count = len(layers_of(model))
    for num_layers in range(1, count + 1):
        lists = {"Llama": "layers", "GPT2": "h", "Gemma3": "layers"}
        tuned = tuple(f".{lists[name]}.{index}." for index in range(count - num_layers, count))
        expected = {layer for layer in every if any(part in layer for part in tuned)}
        assert adapted(copy.deepcopy(model), names, num_layers) == expected
    assert adapted(copy.deepcopy(model), names, count + 1) == every


def test_fused_experts_are_counted_and_left_as_they_are():
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    moe = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SMALL, **HEADS, **moe))
    assert all_linear(model) == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert fused_experts(model) == 4  # gate and up, and down, of two layers


def test_stages_take_the_names_from_the_lineage_of_the_base_below_all_merges(tmp_path):
    section = Sft(**tiny_training())
    write_lineage(tmp_path, {"kind": "merged", "base": {"kind": "merged", "base": {"target_modules": ["a", "b"]}}})
    assert with_target_modules("sft", section, tmp_path).lora.target_modules == ["a", "b"]
    named = Sft(**tiny_training(lora=Lora(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=["c"])))
    assert asdict(with_target_modules("sft", named, tmp_path)) == asdict(named)
    write_lineage(tmp_path, {"kind": "base"})
    with pytest.raises(UserError, match=r"doesn't say what sft\.lora\.target_modules=all-linear stands for"):
        with_target_modules("sft", section, tmp_path)


def test_prepare_base_resolves_it(tiny_base):
    assert read_lineage(tiny_base)["target_modules"] == LLAMA
