"""Attention on a CPU in the precision that training computes in."""

import pytest
import torch

from stages.lib.training.attention import row_by_row_attention

HEADS, KEY_HEADS = 4, 2


def fused(query, key, value, scaling):
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)


def ours(query, key, value, scaling):
    return row_by_row_attention(None, query, key, value, None, scaling=scaling)[0].transpose(1, 2)


@pytest.mark.parametrize("width", [64, 128])  # 128 ** -0.5 is no power of two, so that scaling rounds
def test_in_bfloat16_it_is_as_near_to_float32_as_torchs_own(width):
    torch.manual_seed(0)
    tensors = [torch.randn(1, heads, 96, width) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    upstream = torch.randn(1, HEADS, 96, width)

    def found(attend, dtype):
        inputs = [each.to(dtype).requires_grad_() for each in tensors]
        output = attend(*inputs, width**-0.5)
        gradients = torch.autograd.grad(output, inputs, upstream.to(dtype))
        return torch.cat([each.detach().float().flatten() for each in (output, *gradients)])

    def error(attend):
        exact = found(fused, torch.float32)
        return (found(attend, torch.bfloat16) - exact).norm() / exact.norm()

    assert error(ours) < 1.2 * error(fused)
