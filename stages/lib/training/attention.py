"""Causal attention without a mask over all pairs of tokens, on a CPU and on a GPU."""

from functools import lru_cache
from itertools import pairwise
from typing import Any

from stages.lib.training.cuda_graphs import BUCKET
from stages.lib.training.decisions import Attention
from stages.lib.training.plan import Plan


def attend_without_mask(model: Any, plan: Plan, dtype: Any) -> None:
    """Give `model` a causal attention that needs no mask over all pairs of tokens.

    Rows laid end to end (padding-free) attend to their own tokens alone: `cu_seq_lens_q`, which trl's padding-free
    collator gives, says where each begins. Rows padded on the right need no mask either: a token never sees what
    comes after it. Not for left-padded generation. `dtype` is what training computes in.
    """
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface

    functions = {
        Attention.row_by_row: row_by_row_attention,
        Attention.varlen: varlen_attention(max(plan.longest, BUCKET), dtype),
        Attention.causal: sdpa_attention_forward,
    }
    name = f"without_mask_{plan.attention.value}"
    AttentionInterface.register(name, functions[plan.attention])
    AttentionMaskInterface.register(name, lambda *_, **__: None)
    model.set_attn_implementation(name)
    model.get_decoder().register_forward_pre_hook(drop_what_no_attention_reads, with_kwargs=True)


def drop_what_no_attention_reads(module: Any, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Leave out of a padding-free batch what differs at every step: torch.compile would compile anew for each."""
    unread = ("max_length_q", "max_length_k", "cu_seq_lens_k", "seq_idx")
    return arguments, {name: value for name, value in named.items() if name not in unread}


@lru_cache(maxsize=1)
def later_up_to(length: int, dtype: Any) -> Any:
    """(length, length): 0 where a column's token is not after the row's, else minus infinity."""
    import torch

    return torch.full((length, length), float("-inf"), dtype=dtype).triu(1)


def row_by_row_attention(
    module: Any, query: Any, key: Any, value: Any, mask: Any, *, scaling: float, cu_seq_lens_q: Any = None, **_: Any
) -> tuple[Any, None]:
    """Attention on a CPU, one row at a time.

    torch's fused attention would take a mask over all pairs of tokens for rows end to end, and its backward pass is
    slow: bench/attention.py measures both. Scores stay in 16 bit where the model computes in it, since passes over
    them are what attention costs; softmax sums in float32 all the same.
    """
    import torch

    def attend(query: Any, key: Any, value: Any) -> Any:
        """Softmax attention of (batch, heads, length, width); query heads share the fewer key heads in groups."""
        batch, heads, length, width = query.shape
        groups = key.shape[1]
        query = (query * scaling).reshape(batch, groups, heads // groups * length, width)
        scores = (query @ key.transpose(2, 3)).view(batch, groups, heads // groups, length, length)
        future = later_up_to(1 << (length - 1).bit_length(), scores.dtype)  # a table that grows by powers of two
        weights = (scores + future[:length, :length]).softmax(-1)
        weights = weights.view(batch, groups, heads // groups * length, length)
        return (weights @ value).view(batch, heads, length, width)

    borders = [0, query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
    rows = [
        attend(query[:, :, start:end], key[:, :, start:end], value[:, :, start:end]) for start, end in pairwise(borders)
    ]
    return torch.cat(rows, dim=2).transpose(1, 2).contiguous(), None


def varlen_attention(longest: int, dtype: Any) -> Any:
    """torch's flash attention in a 16-bit `dtype`, over rows of at most `longest` tokens laid end to end."""

    def attention(
        module: Any, query: Any, key: Any, value: Any, mask: Any, *, scaling: float, cu_seq_lens_q: Any, **_: Any
    ) -> tuple[Any, None]:
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = (each[0].transpose(0, 1).to(dtype) for each in (query, key, value))
        borders, causal = cu_seq_lens_q, (-1, 0)
        attended: Any = varlen_attn(
            query, key, value, borders, borders, longest, longest, scale=scaling, window_size=causal, enable_gqa=True
        )
        return attended[None], None

    return attention
