"""quantization=auto picks by memory, says why, and is what the usual advice says for 8 billion weights."""

import pytest
from conftest import tiny_training

import stages.lib.training.precision
from stages.lib.hardware import Hardware, find_hardware
from stages.lib.schema.choices import Dtype, Method, Quantization
from stages.lib.schema.training import Sft
from stages.lib.training.precision import count_weights, resolve_precision

GIB = 2**30


ADVICE = [(8, "nf4"), (12, "nf4"), (16, "int8"), (24, "int8"), (32, "none"), (80, "none")]


@pytest.mark.parametrize(("gib", "picked"), ADVICE)
def test_auto_for_eight_billion_weights(monkeypatch, tmp_path, gib, picked):
    monkeypatch.setattr(stages.lib.training.precision, "count_weights", lambda _: 8_000_000_000)
    section = Sft(**tiny_training(quantization=Quantization.auto))
    resolved, _, record = resolve_precision(
        "sft", section, tmp_path, Hardware("cpu", gib * GIB, gib * GIB, bfloat16=True)
    )
    assert resolved.quantization is Quantization[picked]
    assert record["quantization_why"] == f"8.00 billion weights, {gib} GiB of memory on cpu"


def test_what_was_asked_for_is_kept_and_full_tuning_quantises_nothing(tiny_base):
    asked = Sft(**tiny_training(dtype=Dtype.float32))
    resolved, dtype, record = resolve_precision("sft", asked, tiny_base, find_hardware())
    assert resolved == asked
    assert (str(dtype), record["quantization_why"]) == ("torch.float32", "as asked")
    full = Sft(**tiny_training(method=Method.full, quantization=Quantization.auto))
    assert resolve_precision("sft", full, tiny_base, find_hardware())[0].quantization is Quantization.none


def test_weights_are_counted_by_their_headers(tiny_base):
    from transformers import AutoModelForCausalLM

    assert count_weights(tiny_base) == AutoModelForCausalLM.from_pretrained(tiny_base).num_parameters()
