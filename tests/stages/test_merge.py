"""Merging: the merged model says what base and adapter say together, and a different base is refused."""

import json
import shutil

import pytest
import torch
from conftest import flip_a_bit, tiny_training
from peft import PeftModel
from safetensors.torch import load_file, save_file

import stages.lib.merging.merge_adapter
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import read_lineage, write_lineage
from stages.lib.hardware import Hardware
from stages.lib.models.loading import load_16bit, load_quantized, load_strictly
from stages.lib.schema.choices import MergeBase, Method, Quantization
from stages.lib.schema.merging import Merge
from stages.lib.schema.training import Sft
from stages.merge import ADAPTER, BASE, METRICS, OUT, merge
from stages.sft import sft

pytestmark = pytest.mark.chain


def test_merged_equals_base_with_adapter(place):
    sft(Sft(**tiny_training()), place)
    merge(Merge(), place)
    assert sorted(path.name for path in (place / OUT).iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "lineage.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    ids = torch.arange(3, 60)[None]
    adapted = PeftModel.from_pretrained(load_16bit(BASE, torch.float32), ADAPTER)
    with torch.inference_mode():
        wanted = adapted(ids).logits
        got = load_16bit(place / OUT, torch.float32)(ids).logits
        base = load_16bit(BASE, torch.float32)(ids).logits
    assert (got - wanted).abs().mean() < 0.01  # bfloat16 rounding of the merged weights
    assert (base - wanted).abs().mean() > 0.05  # the adapter does something: the test can fail


def test_dequantized_base_is_what_training_saw(place):
    """Merged into dequantised weights the model answers as it was trained; into the original ones, less so."""
    sft(Sft(**tiny_training()), place)
    merge(Merge(base=MergeBase.dequantized), place)
    ids = torch.arange(3, 60)[None]
    trained = PeftModel.from_pretrained(load_quantized(BASE, Quantization.nf4, torch.bfloat16), ADAPTER)
    with torch.inference_mode():
        wanted = trained(ids).logits.float()
        dequantized = load_16bit(place / OUT, torch.bfloat16)(ids).logits.float()
        merge(Merge(), place)
        original = load_16bit(place / OUT, torch.bfloat16)(ids).logits.float()
    assert (dequantized - wanted).abs().mean() < (original - wanted).abs().mean() / 4


def test_refuses_a_different_base(place):
    sft(Sft(**tiny_training(max_steps=1)), place)
    (place / "models/base").unlink()
    shutil.copytree(place.joinpath("data").resolve().parent / "models/base", place / "models/base")
    model = load_16bit(BASE, torch.bfloat16)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight += 0.01
    model.save_pretrained(place / "models/base")
    with pytest.raises(UserError, match="models/sft was trained on weights"):
        merge(Merge(), place)
    assert not (place / OUT).exists()


def test_does_not_believe_the_adapters_own_word(place):
    """base_model_name_or_path edited by hand, as the notebook does, changes nothing."""
    sft(Sft(**tiny_training(max_steps=1)), place)
    config_file = place / ADAPTER / "adapter_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config_file.write_text(json.dumps({**config, "base_model_name_or_path": "someone/else"}), encoding="utf-8")
    write_lineage(place / ADAPTER, read_lineage(place / ADAPTER))
    merge(Merge(), place)
    assert (place / OUT / "model.safetensors").is_file()


def test_refuses_an_adapter_of_unknown_origin(place):
    sft(Sft(**tiny_training(max_steps=1)), place)
    (place / ADAPTER / "lineage.json").unlink()
    with pytest.raises(UserError, match=r"lineage\.json: no such file"):
        merge(Merge(), place)


@pytest.mark.parametrize("directory", [ADAPTER, BASE], ids=str)
def test_a_flipped_bit_in_what_is_merged_is_refused(place, directory):
    """One bit, in a file of the same size and time: DVC sees no change."""
    sft(Sft(**tiny_training(max_steps=1)), place)
    (place / "models/base").unlink()
    shutil.copytree(place.joinpath("data").resolve().parent / "models/base", place / "models/base")
    (weights,) = (place / directory).glob("*.safetensors")
    flip_a_bit(weights, weights.stat().st_size - 100)
    with pytest.raises(UserError, match="models/base holds" if directory == BASE else "isn't what its stage wrote"):
        merge(Merge(), place)
    assert not (place / OUT).exists()


def test_a_fully_tuned_model_is_taken_as_it_is(place):
    options = {"method": Method.full, "quantization": Quantization.none, "max_steps": 1, "learning_rate": 1e-3}
    sft(Sft(**tiny_training(**options)), place)
    merge(Merge(), place)
    assert load_16bit(place / OUT, torch.bfloat16).dtype is torch.bfloat16


def test_a_merge_that_is_not_what_was_trained_is_refused_by_its_figures(place):
    """A noisy base whose hash the adapter's lineage was made to believe in: only the measured distance tells."""
    sft(Sft(**tiny_training()), place)
    merge(Merge(base=MergeBase.dequantized), place)
    figures = json.loads((place / METRICS).read_text(encoding="utf-8"))
    assert figures["kl"] < 0.1
    assert figures["top1_agreement"] > 0.8

    plain = stages.lib.merging.merge_adapter.load_16bit

    def noisy(directory, dtype):
        model = plain(directory, dtype)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.5 * parameter.std() * torch.randn_like(parameter)
        return model

    before = (place / OUT / "model.safetensors").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.lib.merging.merge_adapter.load_16bit", noisy)
        with pytest.raises(UserError, match="nats a token away"):
            merge(Merge(), place)
    assert (place / OUT / "model.safetensors").read_bytes() == before  # nothing was published


@pytest.mark.slow
def test_a_merge_that_is_rounded_to_four_bits_again_is_refused(place, monkeypatch):
    """What small steps added to weights on the grid of 4 bits rounds back to it: the tuning is gone."""
    sft(Sft(**tiny_training(learning_rate=1e-3, max_steps=60)), place)
    section = Merge(base=MergeBase.dequantized, max_kl=0.1)
    merge(section, place)
    plain = stages.lib.merging.merge_adapter.copy_tokenizer

    def round_again(base, out):
        load_quantized(out, Quantization.nf4, torch.bfloat16).dequantize(dtype=torch.bfloat16).save_pretrained(out)
        plain(base, out)

    monkeypatch.setattr(stages.lib.merging.merge_adapter, "copy_tokenizer", round_again)
    with pytest.raises(UserError, match="nats a token away"):
        merge(section, place)


@pytest.mark.parametrize(
    ("device", "bfloat16", "merged", "computes"),
    [
        ("cpu", False, torch.bfloat16, torch.float32),
        ("cpu", True, torch.bfloat16, torch.bfloat16),
        ("cuda", True, torch.bfloat16, torch.bfloat16),
        ("cuda", False, torch.bfloat16, torch.float32),  # a T4
        ("cuda", False, torch.float16, torch.float16),
    ],
)
def test_models_are_compared_in_what_the_hardware_computes(device, bfloat16, merged, computes):
    hardware = Hardware(device, 1, 1, bfloat16=bfloat16)
    assert stages.lib.merging.merge_adapter.dtype_to_compare_in(merged, hardware) is computes


def test_weights_that_do_not_fit_the_config_are_refused(place):
    weights = load_file(place / "models/base/model.safetensors")
    broken = place / "broken"
    shutil.copytree(place / "models/base", broken)
    del weights["model.norm.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.norm\.weight"):
        load_strictly(broken, torch.bfloat16)
