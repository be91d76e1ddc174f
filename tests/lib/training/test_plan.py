"""The plan keeps the batch, fits the memory found, and says what would fit where nothing does."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_training
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from stages.lib.every_stage.errors import UserError
from stages.lib.hardware import Hardware, resolve_dtype
from stages.lib.models.shape import shape_of
from stages.lib.schema.choices import Choice, Distributed, Dtype, Method, Optim, Quantization
from stages.lib.schema.training import Lora, Sft
from stages.lib.training.decisions import Attention
from stages.lib.training.plan import make_plan
from stages.lib.training.sharing import share_out

GIB = 2**30


@pytest.fixture
def model(tiny_base):
    return AutoModelForCausalLM.from_pretrained(tiny_base)


def plan_with(model, free, longest=128, hardware=None, rows=800, shortest=None, sequences=1, **changes):
    hardware = hardware or Hardware("cpu", free, free, bfloat16=True)
    values = {"batch_size": 8, "gradient_checkpointing": Choice.auto, **changes}
    section, shortest = Sft(**tiny_training(**values)), shortest or longest
    return make_plan("sft", section, model, [longest] + [shortest] * rows, hardware, sequences=sequences)


def test_with_memory_to_spare_nothing_is_recomputed(model):
    plan = plan_with(model, 64 * GIB)
    assert (plan.micro_batch_size, plan.gradient_accumulation_steps, plan.gradient_checkpointing) == (8, 1, False)
    assert plan.dequantize_once


def test_a_paged_optimizer_is_torchs_own_on_a_cpu(model):
    """There bitsandbytes would quietly run a plain AdamW of its own, slower. An 8-bit one stays what was asked for."""
    assert plan_with(model, 64 * GIB, optim=Optim.paged_adamw_32bit).optim == "adamw_torch_fused"
    assert plan_with(model, 64 * GIB, optim=Optim.adamw_8bit).optim == "adamw_8bit"


def test_less_memory_means_smaller_passes_then_recomputation_and_always_the_same_batch(model):
    whole = plan_with(model, 64 * GIB, quantization=Quantization.none).estimated_mib * 2**20
    seen = set()
    for share in (1.2 * 0.9**step for step in range(60)):
        try:
            plan = plan_with(model, int(share * whole), quantization=Quantization.none)
        except UserError:
            break
        assert plan.micro_batch_size * plan.gradient_accumulation_steps == 8
        assert plan.estimated_mib <= share * whole / 2**20
        seen.add((plan.micro_batch_size, plan.gradient_checkpointing))
    assert len(seen) >= 3
    assert (1, True) in seen


def test_what_cannot_fit_names_two_settings_that_would(model):
    with pytest.raises(
        UserError, match=r"training needs about .* GiB are free\. Set sft\.\S+ (or|and) sft\.\S+"
    ) as error:
        plan_with(model, 2**20, micro_batch_size=8, gradient_checkpointing=Choice.never)
    assert "activations" in str(error.value)


def test_a_named_setting_does_make_it_fit(model):
    fixed = {"micro_batch_size": 8, "gradient_checkpointing": Choice.never, "quantization": Quantization.none}
    needed = plan_with(model, 64 * GIB, **fixed).estimated_mib * 2**20
    free = int(0.7 * needed)
    with pytest.raises(UserError, match=r"Set (\S+) or (\S+)") as error:
        plan_with(model, free, **fixed)
    assert "sft.micro_batch_size=1" in str(error.value)
    plan_with(model, free, **{**fixed, "micro_batch_size": 1})


H200 = Hardware("cuda", 140 * GIB, 138 * GIB, bfloat16=True, capability=(9, 0), compiler=True)
CARD_8GB = Hardware("cuda", 8 * GIB, 7 * GIB, bfloat16=True, capability=(8, 6), compiler=False)
T4 = Hardware("cuda", 15 * GIB, 14 * GIB, bfloat16=False, capability=(7, 5), compiler=True)


@pytest.fixture(scope="module")
def tinyllama():
    """TinyLlama's shape without its weights."""
    shape = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "vocab_size": 32000}
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=32, num_key_value_heads=4))


def gpu_plan(model, hardware, **changes):
    values = {
        "batch_size": 64,
        "lora": Lora(r=64, lora_alpha=128, lora_dropout=0.0),
        "max_length": 512,
        "max_steps": 1000,
        **changes,
    }
    return plan_with(model, 0, longest=512, hardware=hardware, **values)


def test_a_large_gpu_takes_the_batch_in_one_compiled_pass_over_packed_rows(tinyllama):
    plan = gpu_plan(tinyllama, H200, shortest=50)
    assert (plan.micro_batch_size, plan.gradient_checkpointing, plan.torch_compile) == (64, False, True)
    assert (plan.attention, plan.padding_free, plan.dequantize_once) == (Attention.varlen, True, True)
    assert "1000 forward passes pay for it" in plan.block("sft")


def test_an_old_gpu_pads_rows_and_keeps_to_float16(tinyllama):
    plan = gpu_plan(tinyllama, T4)
    assert (plan.attention, plan.padding_free, plan.pad_to_multiple_of) == (Attention.causal, False, 64)
    assert plan.micro_batch_size * plan.gradient_accumulation_steps == 64
    assert plan.estimated_mib < 14 * 1024
    assert resolve_dtype(Dtype.auto, T4) is torch.float16
    with pytest.raises(UserError, match=r"sft\.padding_free: found always on a GPU of capability 7\.5, needed 8\.0"):
        gpu_plan(tinyllama, T4, padding_free=Choice.always)


def test_a_small_card_takes_small_passes(tinyllama):
    plan = gpu_plan(tinyllama, CARD_8GB)
    assert plan.micro_batch_size * plan.gradient_accumulation_steps == 64
    assert plan.micro_batch_size < 16
    assert plan.estimated_mib < 7 * 1024
    fixed = {"micro_batch_size": 4, "gradient_checkpointing": Choice.always}
    assert gpu_plan(tinyllama, CARD_8GB, **fixed).micro_batch_size == 4


def test_without_a_compiler_nothing_is_compiled_and_asking_for_it_is_refused(tinyllama):
    plan = gpu_plan(tinyllama, CARD_8GB)
    assert not plan.torch_compile
    assert plan.why["torch_compile"] == "no Triton with a C compiler for this GPU"
    with pytest.raises(UserError, match=r"sft\.torch_compile: found always, but no GPU with Triton and a C compiler"):
        gpu_plan(tinyllama, CARD_8GB, torch_compile=Choice.always)


def test_a_short_run_is_not_compiled(tinyllama):
    assert not gpu_plan(tinyllama, H200, max_steps=20).torch_compile
    assert gpu_plan(tinyllama, H200, max_steps=20, torch_compile=Choice.always).torch_compile


def test_rows_of_one_length_are_padded_and_asking_packs_them(tinyllama):
    plan = gpu_plan(tinyllama, H200)
    assert (plan.attention, plan.padding_free, plan.pad_to_multiple_of) == (Attention.causal, False, 64)
    assert gpu_plan(tinyllama, H200, padding_free=Choice.always).attention is Attention.varlen


def test_pairs_are_padded(tinyllama):
    assert gpu_plan(tinyllama, H200, sequences=2).attention is Attention.causal


def test_a_step_of_one_pass_is_replayed_on_a_gpu(tinyllama, model):
    assert gpu_plan(tinyllama, H200).cuda_graphs
    assert not gpu_plan(tinyllama, H200, max_steps=20).cuda_graphs
    assert not gpu_plan(tinyllama, H200, cuda_graphs=Choice.never).cuda_graphs
    assert gpu_plan(tinyllama, H200, max_steps=20, cuda_graphs=Choice.always).cuda_graphs
    assert plan_with(model, 64 * GIB).why["cuda_graphs"] == "there is no GPU"


@pytest.mark.parametrize(
    ("changes", "hindrance"),
    [
        ({"micro_batch_size": 8}, "a step takes several passes"),
        ({"gradient_checkpointing": Choice.always}, "layers are recomputed"),
        ({"quantization": Quantization.int8}, "8-bit weights ask the host in each layer"),
        (
            {"method": Method.full, "quantization": Quantization.none},
            "each shape of a batch would keep gradients of all weights",
        ),
    ],
)
def test_what_cannot_be_replayed_is_not_and_asking_for_it_is_refused(tinyllama, changes, hindrance):
    assert gpu_plan(tinyllama, H200, **changes).why["cuda_graphs"] == hindrance
    with pytest.raises(UserError, match=f"sft.cuda_graphs: found always, but {hindrance}"):
        gpu_plan(tinyllama, H200, cuda_graphs=Choice.always, **changes)


TWO_H200 = replace(H200, processes=2)


def test_processes_share_the_batch(tinyllama):
    plan = gpu_plan(tinyllama, TWO_H200, distributed=Distributed.ddp)
    assert (plan.processes, plan.micro_batch_size, plan.gradient_accumulation_steps) == (2, 32, 1)
    assert "32 rows of a step each; each holds the whole model" in plan.block("sft")
    assert plan.estimated_mib < gpu_plan(tinyllama, H200).estimated_mib
    small = gpu_plan(tinyllama, replace(CARD_8GB, processes=4))
    assert small.processes * small.micro_batch_size * small.gradient_accumulation_steps == 64


def test_one_gpu_says_that_it_is_the_only_one(tinyllama):
    block = gpu_plan(tinyllama, H200, distributed=Distributed.auto).block("sft")
    assert "processes                   1                   one GPU" in block
    assert "processes" not in gpu_plan(tinyllama, H200).block("sft")


def test_a_batch_that_processes_cannot_share_is_refused_naming_what_can(tinyllama):
    needed = r"sft\.batch_size: found 64, .* the 3 processes .*one of 1, 2, 4, 8, 16, 32, 64"
    with pytest.raises(UserError, match=needed):
        gpu_plan(tinyllama, replace(H200, processes=3))


def test_recorded_passes_and_compiled_layers_are_not_for_sharded_weights(tinyllama):
    plan = gpu_plan(tinyllama, replace(TWO_H200, sharded=True), quantization=Quantization.nf4)
    assert (plan.torch_compile, plan.cuda_graphs, plan.dequantize_once) == (False, False, False)
    with pytest.raises(UserError, match=r"sft\.cuda_graphs: found always, but weights that are sharded"):
        gpu_plan(tinyllama, replace(TWO_H200, sharded=True), cuda_graphs=Choice.always)


def llama_8b():
    """Llama 3's configuration, and how many weights it has."""
    shape = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256}
    return LlamaConfig(**shape, num_attention_heads=32, num_key_value_heads=8), 8_030_261_248


@pytest.mark.parametrize(
    ("gib", "quantization", "method", "sharing"),
    [
        (16, Quantization.none, Method.lora, Distributed.fsdp),
        (16, Quantization.nf4, Method.lora, Distributed.ddp),
        (16, Quantization.auto, Method.lora, Distributed.ddp),  # it means int8 there
        (140, Quantization.none, Method.lora, Distributed.ddp),
        (140, Quantization.none, Method.full, Distributed.ddp),
        (80, Quantization.none, Method.full, Distributed.fsdp),
    ],
)
def test_a_model_is_sharded_where_one_gpu_cannot_hold_a_step(gib, quantization, method, sharing):
    values = {"quantization": quantization, "method": method, "distributed": Distributed.auto, "max_length": 512}
    section = Sft(**tiny_training(lora=Lora(r=16, lora_alpha=32, lora_dropout=0.0), **values))
    config, weights = llama_8b()
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    found, why = share_out(section, shape_of(model), weights, gib * GIB)
    assert found is sharing
    assert f"of {gib} GiB of one GPU" in why


def test_a_step_of_the_larger_model_fits_once_it_is_sharded(tinyllama):
    """The weights of a process count: its part of them, and what is whole at a time."""
    card = Hardware("cuda", 16 * GIB, 15 * GIB, bfloat16=True, capability=(8, 6), processes=8, sharded=True)
    with torch.device("meta"):
        model = LlamaForCausalLM(llama_8b()[0])
    plan = gpu_plan(model, card, batch_size=8, quantization=Quantization.none)
    assert 4 * 1024 < plan.estimated_mib < 15 * 1024
    with pytest.raises(UserError, match=r"training needs about .*weights [4-9]\.\d"):
        gpu_plan(model, replace(card, free_memory=6 * GIB), batch_size=8, quantization=Quantization.none)
