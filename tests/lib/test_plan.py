"""The plan keeps the batch, fits the memory found, and says what would fit where nothing does."""

import pytest
from conftest import tiny_training
from transformers import AutoModelForCausalLM

import stages.lib.plan
from stages.lib.errors import UserError
from stages.lib.plan import make_plan
from stages.lib.schema import Checkpointing, Optim, Quantization, Sft

GIB = 2**30


@pytest.fixture
def model(tiny_base):
    return AutoModelForCausalLM.from_pretrained(tiny_base)


def plan_with(monkeypatch, model, free, longest=128, **changes):
    monkeypatch.setattr(stages.lib.plan, "free_memory", lambda: free)
    values = {"batch_size": 8, "gradient_checkpointing": Checkpointing.auto, **changes}
    return make_plan("sft", Sft(**tiny_training(**values)), model, longest)


def test_with_memory_to_spare_nothing_is_recomputed(monkeypatch, model):
    plan = plan_with(monkeypatch, model, 64 * GIB)
    assert (plan.micro_batch_size, plan.gradient_accumulation_steps, plan.gradient_checkpointing) == (8, 1, False)
    assert plan.dequantize_once


def test_a_paged_optimizer_is_torchs_own_on_a_cpu(monkeypatch, model):
    """There bitsandbytes would quietly run a plain AdamW of its own, slower. An 8-bit one stays what was asked for."""
    assert plan_with(monkeypatch, model, 64 * GIB, optim=Optim.paged_adamw_32bit).optim == "adamw_torch_fused"
    assert plan_with(monkeypatch, model, 64 * GIB, optim=Optim.adamw_8bit).optim == "adamw_8bit"


def test_less_memory_means_smaller_passes_then_recomputation_and_always_the_same_batch(monkeypatch, model):
    whole = plan_with(monkeypatch, model, 64 * GIB, quantization=Quantization.none).estimated_mib * 2**20
    seen = set()
    for share in (1.2 * 0.9**step for step in range(60)):
        try:
            plan = plan_with(monkeypatch, model, int(share * whole), quantization=Quantization.none)
        except UserError:
            break
        assert plan.micro_batch_size * plan.gradient_accumulation_steps == 8
        assert plan.estimated_mib <= share * whole / 2**20
        seen.add((plan.micro_batch_size, plan.gradient_checkpointing))
    assert len(seen) >= 3
    assert (1, True) in seen


def test_what_cannot_fit_names_two_settings_that_would(monkeypatch, model):
    with pytest.raises(
        UserError, match=r"training needs about .* GiB are free\. Set sft\.\S+ (or|and) sft\.\S+"
    ) as error:
        plan_with(monkeypatch, model, 2**20, micro_batch_size=8, gradient_checkpointing=Checkpointing.never)
    assert "activations" in str(error.value)


def test_a_named_setting_does_make_it_fit(monkeypatch, model):
    fixed = {"micro_batch_size": 8, "gradient_checkpointing": Checkpointing.never, "quantization": Quantization.none}
    needed = plan_with(monkeypatch, model, 64 * GIB, **fixed).estimated_mib * 2**20
    free = int(0.7 * needed)
    with pytest.raises(UserError, match=r"Set (\S+) or (\S+)") as error:
        plan_with(monkeypatch, model, free, **fixed)
    assert "sft.micro_batch_size=1" in str(error.value)
    plan_with(monkeypatch, model, free, **{**fixed, "micro_batch_size": 1})
