"""Attention of one row on a CPU, forward and backward, in bfloat16: torch's fused one against ours, in one run.

Run     python -m bench.attention [tokens …]      60 100 200 512 1024 unless given
        9 heads share 3 key heads of width 64, as in SmolLM2-135M. Errors are of the gradients, relative to float32's.
"""

import sys
import time
from typing import Any

import torch

from stages.lib.hardware import describe, set_up_cpu
from stages.lib.training.attention import row_by_row_attention

HEADS, KEY_HEADS, WIDTH = 9, 3, 64
SCALE = WIDTH**-0.5
ROUNDS = 5


def fused(query: Any, key: Any, value: Any) -> Any:
    """torch's own causal attention."""
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(query, key, value, is_causal=True, scale=SCALE, enable_gqa=True)


def ours(query: Any, key: Any, value: Any) -> Any:
    """What the training stages use on a CPU."""
    return row_by_row_attention(None, query, key, value, None, scaling=SCALE)[0].transpose(1, 2)


def gradients(attend: Any, tensors: list[Any], upstream: Any) -> Any:
    """The gradients of the inputs, in one row."""
    found = torch.autograd.grad(attend(*tensors), tensors, upstream)
    return torch.cat([each.float().flatten() for each in found])


if __name__ == "__main__":
    set_up_cpu(0)
    print(describe())
    for tokens in [int(each) for each in sys.argv[1:]] or [60, 100, 200, 512, 1024]:
        torch.manual_seed(0)
        shapes = [(1, heads, tokens, WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
        tensors = [torch.randn(shape, dtype=torch.bfloat16).requires_grad_() for shape in shapes]
        upstream = torch.randn(shapes[0], dtype=torch.bfloat16)
        exact = gradients(fused, [each.detach().float().requires_grad_() for each in tensors], upstream.float())
        line = f"{tokens:>5} tokens"
        for attend in (fused, ours):
            error = (gradients(attend, tensors, upstream) - exact).norm() / exact.norm()
            best = float("inf")
            for _ in range(ROUNDS):
                began, calls = time.perf_counter(), max(1, 2000 // tokens)
                for _ in range(calls):
                    gradients(attend, tensors, upstream)
                best = min(best, (time.perf_counter() - began) / calls)
            line += f"   {attend.__name__} {best * 1000:.2f} ms, error {error:.4f}"
        print(line, flush=True)
