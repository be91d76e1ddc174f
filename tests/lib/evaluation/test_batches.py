"""Batches hold what fits into memory, on a small card as on a large one."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stages.lib.evaluation.batches import BatchTokens, batches_by_length, explain_full_memory, fitting_batches
from stages.lib.every_stage.errors import UserError
from stages.lib.hardware import Hardware

GIB = 2**30
LLAMA_3_8B = LlamaConfig(
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128256,
)


def batches(free: int, device: str = "cuda", most: int = 0) -> BatchTokens:
    with torch.device("meta"):
        model = LlamaForCausalLM(LLAMA_3_8B).to(torch.bfloat16)
    return fitting_batches(model, Hardware(device, free, free, True), 256, most)


def test_batches_stay_within_the_budget():
    lengths = [5, 100, 7, 50, 6, 60]
    batches = batches_by_length(lengths, 120)
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 120 for batch in batches)
    assert batches_by_length([500], 120) == [[0]]


def test_what_is_free_decides():
    """The cache of Llama-3-8B takes 128 KiB a token; a scored token 1.2 MiB, most of it its logits."""
    assert batches(120 * GIB) == BatchTokens(131072, 32768)
    small = batches(6 * GIB)  # a card of 24 GB with the weights on it
    assert small == BatchTokens(8192, 2048)
    assert small.generated * 128 * 1024 < 6 * GIB / 2
    assert small.scored * 128256 * 10 < 6 * GIB / 2
    assert batches(10 * 2**20).scored > 0


def test_a_little_less_memory_changes_nothing():
    assert len({batches(int(free * GIB)) for free in (5.8, 6.0, 6.2)}) == 1


def test_a_limit_that_is_given_holds_for_both():
    assert batches(120 * GIB, most=1000) == BatchTokens(1000, 1000)


def test_a_large_cpu_has_batches_as_large_as_pay():
    assert batches(20 * GIB, "cpu") == BatchTokens(16384, 2048)


def test_a_full_gpu_is_an_error_that_names_smaller_batches():
    wanted = pytest.raises(UserError, match=r"8192 padded tokens.*Set evaluate.batch_tokens=1024")
    with wanted, explain_full_memory(BatchTokens(8192, 2048)):
        raise torch.OutOfMemoryError("CUDA out of memory")
