"""Damaged and unsuitable models: each ends in one sentence that says what it is, before anything is published."""

import json
import shutil

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

from stages.lib.every_stage.errors import UserError
from stages.lib.schema.choices import BaseSource
from stages.lib.schema.data import PrepareBase
from stages.prepare_base import OUT, prepare_base

POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 12345\n"
)


@pytest.fixture
def model(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    return shutil.copytree(tiny_model, tmp_path / "model")


def refused(model, tmp_path, said):
    with pytest.raises(UserError, match=said) as caught:
        prepare_base(PrepareBase(source=BaseSource.local, path=str(model), chat_template="plain.jinja"), tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / OUT).exists()


def configured(**changes):
    def plant(model):
        path = model / "config.json"
        content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
        path.write_text(
            json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8"
        )

    return plant


def weights(change):
    def plant(model):
        tensors = load_file(model / "model.safetensors")
        change(tensors)
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})

    return plant


def cut(name, size):
    def plant(model):
        (model / name).write_bytes((model / name).read_bytes()[:size])

    return plant


def written(name, text):
    return lambda model: (model / name).write_text(text, encoding="utf-8")


def sharded(model):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(model).save_pretrained(model, max_shard_size="40KB")
    (model / "model.safetensors").unlink(missing_ok=True)


def without_a_shard(model):
    sharded(model)
    sorted(model.glob("model-*.safetensors"))[1].unlink()


def without_the_index(model):
    sharded(model)
    (model / "model.safetensors.index.json").unlink()


def with_word_tokens_added(model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["달여울시"])
    tokenizer.save_pretrained(model)


def encoder_decoder(model):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=600, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(model)


def encoder(model):
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=600, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    BertForMaskedLM(config).save_pretrained(model)


def encoder_in_disguise(model):
    encoder(model)
    configured(architectures=["BertLMHeadModel"])(model)


def no_tokenizer(model):
    for path in model.glob("tokenizer*"):
        path.unlink()


def another_tokenizers_files(model):
    """transformers takes them without a word, for a tokenizer that knows nothing."""
    (model / "tokenizer.json").unlink()
    (model / "vocab.json").write_text('{"a": 0}', encoding="utf-8")
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}', encoding="utf-8")


def pieces_alone(model):
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.model").write_bytes(b"pieces")


def renamed(tensors):
    tensors["model.layers.0.self_attn.extra.weight"] = tensors.pop("model.layers.0.self_attn.q_proj.weight")


def narrower(tensors):
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:16].clone()


def broken(tensors):
    tensors["model.norm.weight"][3] = float("nan")


DEFECTS = {
    "cut short": (cut("model.safetensors", 30_000), r"model\.safetensors is damaged or truncated .*Download it anew"),
    "empty": (cut("model.safetensors", 0), r"model\.safetensors is damaged or truncated"),
    "no shard": (without_a_shard, r"found \d+ of the \d+ files that .*index\.json names; missing are model-00002-of"),
    "no index": (without_the_index, r"found model-00001-of.* and no model\.safetensors\.index\.json"),
    "pointer": (written("model.safetensors", POINTER), r"pointers of git-lfs in place of model\.safetensors.*lfs pull"),
    "pointer of the tokenizer": (written("tokenizer.json", POINTER), r"git-lfs in place of tokenizer\.json"),
    "bitsandbytes": (configured(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
                     r"quantised already \(bitsandbytes\)"),
    "gptq": (configured(quantization_config={"quant_method": "gptq", "bits": 4}), r"quantised already \(gptq\)"),
    "mxfp4": (configured(quantization_config={"quant_method": "mxfp4"}), r"quantised already \(mxfp4\)"),
    "old gptq": (written("quantize_config.json", "{}"), r"quantised already \(gptq\)"),
    "MLX": (configured(quantization={"group_size": 64, "bits": 4}), r"quantised already \(MLX\)"),
    "encoder-decoder": (encoder_decoder, "t5 is an encoder-decoder; needed a decoder-only"),
    "encoder": (encoder, "config.json says BertForMaskedLM, which doesn't continue text"),
    "encoder in disguise": (encoder_in_disguise, "depends on later ones, as in an encoder"),
    "classifier": (configured(architectures=["LlamaForSequenceClassification"]), "Classification, which doesn't"),
    "unknown type": (configured(model_type="llama9"), r"transformers \d+\.\d+\.\d+ doesn't know model_type 'llama9'"),
    "no type": (configured(model_type=None), "config.json has no model_type"),
    "custom code": (configured(model_type="mine", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"}),
                    r"model_type 'mine' needs code that its repository ships \(auto_map\), which is never run"),
    "a wrong value": (configured(hidden_size="wide"), r"can't read config\.json of model_type 'llama': .*hidden_size"),
    "broken config": (cut("config.json", 40), r"config\.json is not JSON: .*truncated or edited"),
    "a list as config": (written("config.json", "[]"), r"config\.json holds a list, needed an object"),
    "broken tokenizer": (cut("tokenizer.json", 400), r"tokenizer\.json is not JSON"),
    "another tokenizer": (written("tokenizer.json", '{"version": "1.0"}'), "can't load the tokenizer: "),
    "no tokenizer": (no_tokenizer, r"found no tokenizer, such as tokenizer\.json.*prepare_base\.tokenizer_id"),
    "an empty tokenizer": (another_tokenizers_files, "its tokenizer loses text: 'Could you"),
    "sentencepiece alone": (pieces_alone, r"can't load the tokenizer: .*Needed a tokenizer\.json"),
    "a longer tokenizer": (with_word_tokens_added, "1 tokens more than .*embeddings .600., such as '달여울시'"),
    "other names": (weights(renamed), r"don't fit config\.json \(missing keys: model\.layers\.0\.self_attn\.q_proj\.w.*"
                                      r"; unexpected keys: model\.layers\.0\.self_attn\.extra"),
    "other shapes": (weights(narrower), r"don't fit config\.json \(mismatched keys: .*model\.norm\.weight"),
    "NaN": (weights(broken), r"found NaN or infinite numbers in model\.norm\.weight \(1 tensors in all\)"),
    "an adapter": (written("adapter_config.json", '{"base_model_name_or_path": "org/base"}'),
                   "found adapter_config.json: an adapter, not a model; .*Merge it into org/base"),
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_what_cannot_be_tuned_is_one_sentence(model, tmp_path, defect):
    plant, said = DEFECTS[defect]
    plant(model)
    refused(model, tmp_path, said)


def test_gguf_is_refused_as_a_file_and_as_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf/model-q4.gguf").write_bytes(b"GGUF")
    refused(tmp_path / "gguf", tmp_path, r"found model-q4\.gguf: GGUF, which is for running a model")
    refused(tmp_path / "gguf/model-q4.gguf", tmp_path, r"found model-q4\.gguf: GGUF")


def test_shards_a_tied_head_and_code_that_is_not_needed_are_fine(model, tmp_path):
    """Phi-4-mini's repository ships code for a model type that transformers knows by itself."""
    sharded(model)
    configured(auto_map={"AutoModelForCausalLM": "modeling_mine.Mine", "AutoConfig": "configuration_mine.Mine"})(model)
    prepare_base(PrepareBase(source=BaseSource.local, path=str(model), chat_template="plain.jinja"), tmp_path)
    assert torch.equal(
        load_file(tmp_path / OUT / "model.safetensors")["model.norm.weight"],
        load_file(sorted(model.glob("model-*.safetensors"))[-1])["model.norm.weight"].to(torch.bfloat16),
    )
