"""4-bit weights stay what they are, whatever passes through them."""

import ast
import json

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from conftest import ROOT, tiny_training
from transformers import LlamaConfig, LlamaForCausalLM

import stages.lib.models.loading
from stages.lib.asking.answer_models import ask_local
from stages.lib.evaluation.bertscore import bert_scores
from stages.lib.every_stage.errors import UserError
from stages.lib.models.loading import load_16bit, load_for_training, load_quantized, load_strictly, load_tokenizer
from stages.lib.schema.choices import Backend, Quantization
from stages.lib.schema.data import Generate
from stages.lib.schema.training import Lora, Sft

repacks = pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_bf16"), reason="bitsandbytes repacks on CPUs with AVX512-bf16 alone"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """One layer wide enough for bitsandbytes' blocks of 64, which the other tests' model is not."""
    shape = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=64, num_key_value_heads=2)).to(torch.bfloat16)
    model.save_pretrained(directory := tmp_path_factory.mktemp("wide"))
    return directory


@pytest.fixture
def with_code(tmp_path, monkeypatch):
    """A model directory that brings code of its own, before somebody who answers every question with yes."""
    directory = tmp_path / "model"
    directory.mkdir()
    kinds = {"AutoConfig": "Own", "AutoModel": "Model", "AutoModelForCausalLM": "Model"}
    names = {kind: f"code.{name}" for kind, name in kinds.items()}
    (directory / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": names}))
    tokenizer = {"tokenizer_class": "Words", "auto_map": {"AutoTokenizer": ["code.Words", None]}}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (directory / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\nclass Words: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    yield directory
    assert not (tmp_path / "ran").exists()


LOADERS = {
    "tokenizer": load_tokenizer,
    "16bit": lambda directory: load_16bit(directory, torch.bfloat16),
    "strictly": lambda directory: load_strictly(directory, torch.bfloat16),
    "quantized": lambda directory: load_quantized(directory, Quantization.nf4, torch.float32),
    "bertscore": lambda directory: bert_scores(directory, ["a"], ["b"]),
    "judge": lambda directory: ask_local(Generate(Backend.huggingface, model=str(directory)), "judge")("?"),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_code_that_a_model_brings_is_never_run(with_code, loader):
    with pytest.raises(UserError, match="brings code of its own"):
        LOADERS[loader](with_code)


NO_CODE = {"PeftModel", "GenerationConfig"}
"""Their files name no code of their own."""


def test_every_load_says_that_code_is_not_run():
    """By a keyword, or by LOCAL, which load_quantized takes up in its options."""
    loads = {}
    for path in (path for folder in ("stages", "tools") for path in (ROOT / folder).rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr in ("from_pretrained", "from_config") and ast.unparse(call.func.value) not in NO_CODE:
                loads[f"{path.relative_to(ROOT)}:{call.lineno}"] = {
                    f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in call.keywords
                }
    said = {"trust_remote_code=False", "None=LOCAL", "None=options"}
    assert len(loads) > 10 and [place for place, keywords in loads.items() if not keywords & said] == []


def weights(model):
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    return torch.cat([dequantize_4bit(layer.weight.data, layer.weight.quant_state).flatten() for layer in layers])


def generate_a_little(model):
    model.eval()
    with torch.no_grad():
        model(torch.arange(3, 40)[None])


def test_a_pass_without_gradients_changes_no_weight(directory):
    model = load_quantized(directory, Quantization.nf4, torch.bfloat16)
    before = weights(model)
    generate_a_little(model)
    assert torch.equal(weights(model), before)


@repacks
def test_without_the_guard_it_would(directory, monkeypatch):
    """The planted defect: bitsandbytes repacks in place, and what is dequantised afterwards is not the weights."""
    monkeypatch.setattr(stages.lib.models.loading, "keep_4bit_weights_unpacked", lambda model: None)
    model = load_quantized(directory, Quantization.nf4, torch.bfloat16)
    before = weights(model)
    generate_a_little(model)
    assert not torch.equal(weights(model), before)


def test_layers_that_the_model_does_not_have_are_refused(directory):
    """One name in seven misspelled, peft adapts the other six without a word."""
    section = Sft(**tiny_training(lora=Lora(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["q_proj", "v_porj"])))
    with pytest.raises(UserError, match=r"target_modules: v_porj: the model has no such layers; needed some of down_p"):
        load_for_training(directory, section, torch.bfloat16)
