"""Every fast path gives the loss and gradients of the plain path."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from stages.lib.models.loading import load_quantized
from stages.lib.schema.choices import Quantization
from stages.lib.training.attention import attend_without_mask
from stages.lib.training.decisions import Attention, Head
from stages.lib.training.fast_path import speed_up_model, speed_up_trainer
from stages.lib.training.head import score_supervised_positions
from stages.lib.training.plan import Plan


@pytest.fixture
def model(tiny_base):
    return AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)


def plan(attention, dequantize_once=False):
    return Plan(
        processes=1,
        sharded=False,
        micro_batch_size=2,
        gradient_accumulation_steps=1,
        gradient_checkpointing=False,
        attention=attention,
        head=Head.supervised,
        padding_free=True,
        pad_to_multiple_of=None,
        torch_compile=False,
        cuda_graphs=False,
        dequantize_once=dequantize_once,
        optim="adamw_torch",
        longest=16,
        sequences=1,
        estimated_mib=1,
        free_mib=1,
    )


def gradients(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.requires_grad])


def test_supervised_positions_score_as_trl_does(model, monkeypatch):
    from trl.trainer.utils import add_fused_lm_head

    monkeypatch.setattr("stages.lib.training.head.HEAD_ROWS", 3)  # several blocks even here
    model.get_output_embeddings().weight.requires_grad_(False)
    torch.manual_seed(0)
    ids = torch.randint(3, 600, (2, 12))
    labels = ids.masked_fill(torch.rand(2, 12) < 0.5, -100)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    plain = model(input_ids=ids, labels=labels, fused_lm_head=True)
    plain.log_probs.sum().backward()
    plain_gradients = gradients(model)
    model.zero_grad()
    score_supervised_positions(model)
    fast = model(input_ids=ids, labels=labels, fused_lm_head=True)
    fast.log_probs.sum().backward()
    for name in ("loss", "log_probs", "entropy", "mean_logits"):
        torch.testing.assert_close(getattr(fast, name), getattr(plain, name), msg=name)
    assert torch.equal(fast.is_top1, plain.is_top1)
    assert torch.equal(fast.label_mask, plain.label_mask)
    torch.testing.assert_close(gradients(model), plain_gradients)


def test_a_head_that_is_trained_or_a_model_that_caps_its_logits_keeps_trls_own(model):
    plain = model.forward
    score_supervised_positions(model)
    assert model.forward == plain
    model.get_output_embeddings().weight.requires_grad_(False)
    model.config.final_logit_softcapping = 30.0
    score_supervised_positions(model)
    assert model.forward == plain
    model.config.final_logit_softcapping = None
    score_supervised_positions(model)
    assert model.forward != plain


def test_dequantized_once_is_the_same_to_the_bit(tiny_base):
    model = load_quantized(tiny_base, Quantization.nf4, torch.bfloat16)
    ids = torch.randint(3, 600, (2, 12))
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()

    def run():
        embedded.grad = None
        logits = model(inputs_embeds=embedded).logits
        logits.sum().backward()
        return logits.detach(), embedded.grad

    before = run()
    model.set_attn_implementation("eager")
    eager = run()[0]
    model = speed_up_model(model, plan(Attention.causal, dequantize_once=True), torch.bfloat16)
    assert not any(parameter.dtype is torch.uint8 for parameter in model.parameters())
    for old, new in zip(before, run(), strict=True):
        assert torch.equal(old, new)
    assert not torch.equal(eager, before[0])  # other arithmetic does show: the test can fail


def test_packed_rows_see_only_themselves(model):
    rows = [torch.randint(3, 600, (1, length)) for length in (5, 1, 9)]
    apart = torch.cat([model(row).logits for row in rows], dim=1)
    attend_without_mask(model, plan(Attention.row_by_row), torch.float32)
    positions = torch.cat([torch.arange(row.shape[1]) for row in rows])[None]
    borders = torch.tensor([0, 5, 6, 15], dtype=torch.int32)
    together = model(torch.cat(rows, dim=1), position_ids=positions, use_cache=False, cu_seq_lens_q=borders).logits
    torch.testing.assert_close(together, apart)
    mixed = model(torch.cat(rows, dim=1), position_ids=positions, use_cache=False).logits
    assert (mixed - apart).abs().max() > 1e-3  # without borders they do see each other: the test can fail


@pytest.mark.parametrize("attention", [Attention.row_by_row, Attention.causal])
def test_right_padding_needs_no_mask(model, attention):
    ids = torch.randint(3, 600, (2, 8))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    masked = model(ids, attention_mask=mask, use_cache=False).logits
    attend_without_mask(model, plan(attention), torch.float32)
    unmasked = model(ids, attention_mask=mask, use_cache=False).logits
    torch.testing.assert_close(unmasked[mask.bool()], masked[mask.bool()])
    assert (unmasked - masked)[~mask.bool()].abs().max() > 1e-3  # what stands on padding differs: no mask was made


def test_dpos_reference_has_the_adapter_off_and_only_while_it_is_asked(model):
    ids = torch.randint(3, 600, (2, 8))
    base = model(ids).logits
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    tuned = adapted(ids).logits
    assert (tuned - base).abs().max() > 1e-3
    speed_up_trainer(SimpleNamespace(model=adapted, add_callback=lambda _: None), plan(Attention.causal), torch.float32)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    with pytest.raises(KeyboardInterrupt), adapted.disable_adapter():
        assert torch.equal(adapted(ids).logits, base)
        raise KeyboardInterrupt
    assert torch.equal(adapted(ids).logits, tuned)
    assert [name for name, parameter in adapted.named_parameters() if parameter.requires_grad] == trained


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for a CPU with g++")
def test_compiled_layers_round_where_uncompiled_ones_do(tiny_base):
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.bfloat16)
    ids = torch.randint(3, 600, (2, 64))
    plain = model(ids, use_cache=False).logits
    trainer = SimpleNamespace(model=model, add_callback=lambda _: None)
    speed_up_trainer(trainer, replace(plan(Attention.causal), torch_compile=True), torch.bfloat16)
    torch._dynamo.utils.counters.clear()
    assert torch.equal(model(ids, use_cache=False).logits, plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # they are compiled
