"""prune: off it is nothing; on it takes out the layers that do least, and what is left computes what they leave."""

import json
import shutil

import pytest
import torch
from conftest import flip_a_bit
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import stages.prune
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import OFF, read_lineage, weights_sha256, write_lineage
from stages.lib.models.loading import copy_tokenizer
from stages.lib.schema.pruning import Prune
from stages.prune import METRICS, OUT, SFT, prune

LAYERS, IDENTITY = 4, 2


def write_whole(place, model, out=SFT):
    """`model` as a merge would have written it."""
    shutil.rmtree(place / out, ignore_errors=True)
    model.save_pretrained(place / out)
    copy_tokenizer(place / "models/base", place / out)
    base = read_lineage(place / "models/base")
    write_lineage(place / out, {"kind": "merged", "base": base, "weights_sha256": weights_sha256(place / out)})


def llama(layers=LAYERS):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=600, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, initializer_range=0.2,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(torch.bfloat16)


def make_identity(layer):
    """Let a layer add nothing to what it gets."""
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()


@pytest.fixture
def whole(place):
    model = llama()
    make_identity(model.model.layers[IDENTITY])
    write_whole(place, model)
    return place


def test_off_says_so_and_nothing_else(place):
    prune(Prune(), place)
    assert [path.name for path in (place / OUT).iterdir()] == ["lineage.json"]
    assert read_lineage(place / OUT) == OFF
    assert json.loads((place / METRICS).read_text(encoding="utf-8")) == {}


def test_a_layer_that_does_nothing_is_found_first_and_its_loss_changes_no_logit(whole):
    prune(Prune(enabled=True, layers=1, rows=4), whole)
    found = json.loads((whole / METRICS).read_text(encoding="utf-8"))
    assert found["taken_out"] == [IDENTITY]
    assert found["influence"][str(IDENTITY)] == pytest.approx(0, abs=1e-9)
    assert min(value for number, value in found["influence"].items() if number != str(IDENTITY)) > 0.01
    ids = torch.tensor([[5, 9, 77, 300]])
    before, after = (AutoModelForCausalLM.from_pretrained(whole / name, dtype=torch.float32) for name in (SFT, OUT))
    assert after.config.num_hidden_layers == LAYERS - 1
    assert [layer.self_attn.layer_idx for layer in after.model.layers] == [0, 1, 2]
    with torch.inference_mode():
        assert torch.equal(before(ids).logits, after(ids).logits)
        assert torch.equal(before.generate(ids, max_new_tokens=8), after.generate(ids, max_new_tokens=8))
    lineage = read_lineage(whole / OUT)
    assert lineage["layers_taken_out"] == [IDENTITY]
    assert lineage["whole_weights_sha256"] == weights_sha256(whole / SFT)


def test_the_last_layers_output_is_taken_before_the_final_norm(whole):
    """The last of `output_hidden_states` is after it: a last layer that does nothing would be found late."""
    model = llama()
    make_identity(model.model.layers[-1])
    model.model.norm.weight.data = torch.rand(32, dtype=torch.bfloat16)
    write_whole(whole, model)
    prune(Prune(enabled=True, layers=1, rows=4), whole)
    assert json.loads((whole / METRICS).read_text(encoding="utf-8"))["taken_out"] == [LAYERS - 1]


def test_no_layers_keep_the_bytes_of_the_weights(whole):
    prune(Prune(enabled=True, layers=0, rows=2), whole)
    assert (whole / OUT / "model.safetensors").read_bytes() == (whole / SFT / "model.safetensors").read_bytes()
    assert json.loads((whole / METRICS).read_text(encoding="utf-8"))["taken_out"] == []


def test_twice_gives_the_same_bytes(whole):
    for name in "ab":
        prune(Prune(enabled=True, layers=2, rows=3), whole / name)
    files = [sorted(path.name for path in (whole / name / OUT).iterdir()) for name in "ab"]
    assert files[0] == files[1]
    assert all((whole / "a" / OUT / name).read_bytes() == (whole / "b" / OUT / name).read_bytes() for name in files[0])
    assert len(load_file(whole / "a" / OUT / "model.safetensors")) < len(load_file(whole / SFT / "model.safetensors"))


def test_what_is_listed_layer_by_layer_loses_the_same_layers(place):
    """A window in some layers and none in others (Gemma 3): each layer left keeps its own."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    config = Gemma3TextConfig(
        vocab_size=600, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=8, layer_types=kinds, initializer_range=0.2,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = Gemma3ForCausalLM(config).to(torch.bfloat16)
    write_whole(place, model)
    prune(Prune(enabled=True, layers=2, rows=2), place)
    taken = json.loads((place / METRICS).read_text(encoding="utf-8"))["taken_out"]
    left = AutoModelForCausalLM.from_pretrained(place / OUT).config
    assert left.layer_types == [kind for number, kind in enumerate(kinds) if number not in taken]


def test_a_family_that_knows_its_layers_by_number_is_refused(whole, monkeypatch):
    """Planted: the configuration loses other layers' entries than the model does."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=600, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=4, initializer_range=0.2,
        layer_types=["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"],
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    write_whole(whole, Gemma3ForCausalLM(config).to(torch.bfloat16))
    monkeypatch.setattr(stages.prune, "least_influential", lambda influence, count: [2])
    plain = stages.lib.pruning.shallower.without_layers
    monkeypatch.setattr(stages.lib.pruning.shallower, "without_layers", lambda config, out: plain(config, [0]))
    with pytest.raises(UserError, match=r"found logits up to .* apart, needed equal ones.*decides by a layer's number"):
        prune(Prune(enabled=True, layers=1, rows=2), whole)
    assert not (whole / OUT).exists()


def test_layers_that_take_keys_from_others_are_refused(whole, monkeypatch):
    model = llama()
    model.config.num_kv_shared_layers = 2
    with pytest.raises(UserError, match=r"num_kv_shared_layers=2\); needed layers with their own"):
        stages.prune.refuse_too_few(model, 1)
    stages.prune.refuse_too_few(model, 0)


def test_as_many_layers_as_there_are_are_refused(whole):
    with pytest.raises(UserError, match="prune.layers: found 4, needed less than the model's 4 layers"):
        prune(Prune(enabled=True, layers=4, rows=2), whole)


def test_a_model_that_is_no_merge_or_damaged_is_refused(whole):
    flip_a_bit(whole / SFT / "model.safetensors", 5000)
    with pytest.raises(UserError, match="isn't what its stage wrote"):
        prune(Prune(enabled=True), whole)
    shutil.rmtree(whole / SFT)
    shutil.copytree(whole / "models/base", whole / SFT)
    with pytest.raises(UserError, match="says 'base', needed 'merged'"):
        prune(Prune(enabled=True), whole)
