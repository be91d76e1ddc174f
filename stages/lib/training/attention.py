"""Causal attention without a mask over all pairs of tokens, on a CPU and on a GPU."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from stages.lib.training.cuda_graphs import BUCKET
from stages.lib.training.decisions import Attention
from stages.lib.training.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel


def attend_without_mask(model: PreTrainedModel, plan: Plan, dtype: torch.dtype) -> None:
    """Give `model` a causal attention that needs no mask over all pairs of tokens, in windows where it has them.

    Whether it is the model's own arithmetic, parity.py asks: attention that does more than this is found there.

    Packed rows (padding-free) attend to their own tokens alone: `cu_seq_lens_q`, which trl's padding-free
    collator gives, says where each begins. Rows padded on the right need no mask either: a token never sees what
    comes after it. Not for left-padded generation. `dtype` is what training computes in.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    functions = {
        Attention.row_by_row: row_by_row_attention,
        Attention.varlen: varlen_attention(max(plan.longest, BUCKET), dtype),
        Attention.causal: fused_attention,
    }
    name = f"without_mask_{plan.attention.value}"
    AttentionInterface.register(name, functions[plan.attention])
    AttentionMaskInterface.register(name, lambda *_, **__: None)
    model.set_attn_implementation(name)
    model.get_decoder().register_forward_pre_hook(drop_what_no_attention_reads, with_kwargs=True)


def attention_of(model: PreTrainedModel) -> str:
    """The name of the attention that a model computes by; transformers 5.23 has a public way to set it, none to ask."""
    return model.config._attn_implementation


def drop_what_no_attention_reads(
    module: Module, arguments: tuple[object, ...], named: dict[str, object]
) -> tuple[Any, dict[str, Any]]:
    """Leave out of a padding-free batch what differs at every step: torch.compile would compile anew for each."""
    unread = ("max_length_q", "max_length_k", "cu_seq_lens_k")
    return arguments, {name: value for name, value in named.items() if name not in unread}


@lru_cache(maxsize=2)
def hidden_up_to(length: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """(length, length): minus infinity where a row's token doesn't see a column's, else 0.

    It sees itself and what came before, with a `window` itself and the `window` - 1 tokens before.
    """
    import torch

    table = torch.full((length, length), float("-inf"), dtype=dtype)
    return table.triu(1) if window is None else table.triu(1) + table.tril(-window)


def row_by_row_attention(
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention on a CPU, one row at a time.

    torch's fused attention would take a mask over all pairs of tokens for packed rows, and its backward pass is
    slow: bench/attention.py measures both. Scores stay in 16 bit where the model computes in it, since passes over
    them are what attention costs; softmax sums in float32 all the same.
    """
    import torch

    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Softmax attention of (batch, heads, length, width); query heads share the fewer key heads in groups."""
        batch, heads, length, width = query.shape
        groups = key.shape[1]
        query = (query * scaling).reshape(batch, groups, heads // groups * length, width)
        scores = (query @ key.transpose(2, 3)).view(batch, groups, heads // groups, length, length)
        if softcap:
            scores = torch.tanh(scores / softcap) * softcap
        window = sliding_window if sliding_window and sliding_window < length else None
        hidden = hidden_up_to(1 << (length - 1).bit_length(), window, scores.dtype)  # a table that grows by powers of 2
        weights = (scores + hidden[:length, :length]).softmax(-1)
        if dropout:
            weights = torch.nn.functional.dropout(weights, dropout)
        weights = weights.view(batch, groups, heads // groups * length, length)
        return (weights @ value).view(batch, heads, length, value.shape[-1])

    borders = [0, query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
    rows = [
        attend(query[:, :, start:end], key[:, :, start:end], value[:, :, start:end]) for start, end in pairwise(borders)
    ]
    return torch.cat(rows, dim=2).transpose(1, 2).contiguous(), None


def fused_attention(
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: None,
    sliding_window: int | None = None,
    **named: Any,
) -> tuple[Tensor, None]:
    """torch's fused attention over rows that are padded on the right, which need a mask in a window alone."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    length, windowed = query.shape[2], None
    if sliding_window and sliding_window < length:
        windowed = seen_in_window(length, sliding_window, query.device)
    return sdpa_attention_forward(module, query, key, value, windowed, **named)


def seen_in_window(length: int, window: int, device: torch.device) -> Tensor:
    """(1, 1, length, length): whether a row's token sees a column's, of the last `window` tokens up to itself."""
    import torch

    positions = torch.arange(length, device=device)
    back = positions[:, None] - positions
    return ((back >= 0) & (back < window))[None, None]


def varlen_attention(longest: int, dtype: torch.dtype) -> Callable[..., tuple[Tensor, None]]:
    """torch's flash attention in a 16-bit `dtype`, over packed rows of at most `longest` tokens."""

    def attention(
        module: Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: None,
        *,
        cu_seq_lens_q: Tensor,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        dropout: float = 0.0,
        **_: object,
    ) -> tuple[Tensor, None]:
        from torch.nn.attention.varlen import varlen_attn

        if softcap or dropout:
            raise NotImplementedError("flash attention over packed rows neither caps scores nor drops weights")
        found = query.dtype
        query, key, value = (each[0].transpose(0, 1).to(dtype) for each in (query, key, value))
        seen = (sliding_window - 1 if sliding_window else -1, 0)  # tokens before and after that a token sees
        attended: Any = varlen_attn(
            query,
            key,
            value,
            cu_seq_lens_q,
            cu_seq_lens_q,
            longest,
            longest,
            scale=scaling,
            window_size=seen,
            enable_gqa=True,
        )
        return attended[None].to(found), None

    return attention
