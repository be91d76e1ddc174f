"""A decoder replayed as CUDA graphs: one launch a pass where the host would give the GPU hundreds.

At 8 rows of 512 tokens a fast GPU waits for the host more than it computes (docs/performance.md). A graph is recorded
for each shape of a batch when that shape is first seen; the head, the loss and the optimizer stay the trainer's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel

    from stages.lib.training.trl_trainer import Batch

BUCKET = 512
"""Tokens to whose multiple packed rows are filled up, so that few shapes have to be recorded."""

MOST_SHAPES = 8
"""Shapes that are recorded; others are computed as ever. Each keeps the adapter's gradients in a place of its own."""


def replay_decoder(model: PreTrainedModel, decoder: Module, dtype: torch.dtype) -> None:
    """Let `decoder`, that of `model` with its adapter, be replayed from now on; it computes in `dtype`.

    Only for passes whose gradients are used up before the next one with gradients begins: a replay writes its
    results and the gradients where the one before wrote them.
    """
    import torch
    from peft.tuners.lora import LoraLayer
    from transformers.modeling_outputs import BaseModelOutputWithPast

    plain = decoder.forward
    adapted = next((module for module in model.modules() if isinstance(module, LoraLayer)), None)
    recorded: dict[Any, Callable[..., Any]] = {}
    # What a pass keeps for its backward pass would be overwritten by a pass without gradients that shared its memory.
    pools = {learns: torch.cuda.graph_pool_handle() for learns in (True, False)}

    class Decoder(torch.nn.Module):
        """The decoder as a function of tensors alone."""

        def __init__(self) -> None:
            super().__init__()
            self.decoder = decoder  # for its parameters

        def forward(
            self, input_ids: Tensor, position_ids: Tensor | None = None, cu_seq_lens_q: Tensor | None = None
        ) -> Any:
            named = {} if position_ids is None else {"position_ids": position_ids, "cu_seq_lens_q": cu_seq_lens_q}
            return plain(input_ids=input_ids, use_cache=False, **named).last_hidden_state

    def forward(**given: Any) -> Any:
        taken = ("input_ids", "position_ids", "cu_seq_lens_q") if "cu_seq_lens_q" in given else ("input_ids",)
        tensors = tuple(given[name] for name in taken)
        learns = torch.is_grad_enabled()
        adapter_is_off = adapted is not None and adapted.disable_adapters  # as for DPO's reference
        key = (learns, adapter_is_off, *(each.shape for each in tensors))
        if key not in recorded and len(recorded) >= MOST_SHAPES:
            return plain(**given)
        if key not in recorded:
            record = record_with_gradients if learns else record_without
            with torch.random.fork_rng(), torch.autocast("cuda", dtype=dtype, cache_enabled=False):
                recorded[key] = record(Decoder().train(decoder.training), tensors, pools[learns])
        return BaseModelOutputWithPast(last_hidden_state=recorded[key](*tensors))

    decoder.forward = forward


def record_with_gradients(module: Module, tensors: tuple[Tensor, ...], pool: Any) -> Callable[..., Any]:
    """A function that replays `module` on tensors of these shapes, and its backward pass."""
    import torch

    samples = tuple(each.clone() for each in tensors)
    return torch.cuda.make_graphed_callables(module, samples, allow_unused_input=True, pool=pool)


def record_without(module: Module, tensors: tuple[Tensor, ...], pool: Any) -> Callable[..., Any]:
    """A function that replays `module` on tensors of these shapes."""
    import torch

    inputs = tuple(each.clone() for each in tensors)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(3):  # kernels are chosen and compiled before
            module(*inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        output = module(*inputs)

    def replay(*tensors: Tensor) -> Any:
        for kept, given in zip(inputs, tensors, strict=True):
            kept.copy_(given)
        graph.replay()
        return output

    return replay


def fill_up(batch: Batch) -> dict[str, Any]:
    """A padding-free batch with a last row that fills it up to a multiple of BUCKET tokens and teaches nothing.

    The keys that describe rows are those of trl's padding-free collator: (1, tokens) each, and `cu_seq_lens_q` with
    one border more than there are rows, to which another is added.
    """
    import torch

    tokens = batch["input_ids"].shape[1]
    missing = -tokens % BUCKET
    filled = {"input_ids": 0, "labels": -100, "position_ids": 0}
    borders = batch["cu_seq_lens_q"]
    return {
        **batch,
        **{key: torch.nn.functional.pad(batch[key], (0, missing), value=value) for key, value in filled.items()},
        "cu_seq_lens_q": torch.cat([borders, borders.new_tensor([tokens + missing])]),
    }
