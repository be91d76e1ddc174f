"""The same loss with less work."""

import types
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

HEAD_ROWS = 256
"""Positions projected onto the vocabulary at once. Fewer would read the whole head more often than it is worth."""

CHANGED_LOGITS = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "output_multiplier",
    "lm_head_multiplier",
    "output_router_logits",
)
"""Configuration keys of models whose logits are more than head @ hidden, or whose loss has another term."""


def attend_without_mask(model: Any) -> None:
    """Give `model` a causal attention for short rows on a CPU that needs no mask.

    Rows laid end to end (padding-free) attend to their own tokens alone, one row at a time: `cu_seq_lens_q`, which
    trl's padding-free collator gives, says where each begins. Rows padded on the right need no mask either: a token
    never sees what comes after it. Not for left-padded generation. torch's fused attention takes a mask over all
    pairs of tokens for the first, and its backward pass is slow on short rows: bench/fast_path.py measures both.
    """
    import torch
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    @lru_cache(maxsize=1)
    def later_up_to(length: int) -> Any:
        return torch.full((length, length), float("-inf")).triu(1)

    def future(length: int) -> Any:
        """What is added to scores so that no token sees a later one, from a table that grows by powers of two."""
        return later_up_to(1 << (length - 1).bit_length())[:length, :length]

    def attend(query: Any, key: Any, value: Any, scaling: float) -> Any:
        """Softmax attention of (batch, heads, length, width); query heads share the fewer key heads in groups."""
        batch, heads, length, width = query.shape
        groups = key.shape[1]
        query = query.reshape(batch, groups, heads // groups * length, width)
        scores = (query @ key.transpose(2, 3)).float() * scaling
        scores = scores.view(batch, groups, heads // groups, length, length) + future(length)
        weights = scores.softmax(-1).to(value.dtype).view(batch, groups, heads // groups * length, length)
        return (weights @ value).view(batch, heads, length, width)

    def attention(
        module: Any, query: Any, key: Any, value: Any, mask: Any, *, scaling: float, cu_seq_lens_q: Any = None, **_: Any
    ) -> tuple[Any, None]:
        borders = [0, query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
        rows = [
            attend(query[:, :, start:end], key[:, :, start:end], value[:, :, start:end], scaling)
            for start, end in pairwise(borders)
        ]
        return torch.cat(rows, dim=2).transpose(1, 2).contiguous(), None

    AttentionInterface.register("without_mask", attention)
    AttentionMaskInterface.register("without_mask", lambda *_, **__: None)
    model.set_attn_implementation("without_mask")


def skip_adapter_casts(model: Any) -> None:
    """Let autocast alone choose the precision of adapters.

    peft would cast each adapted layer's input to the adapter's float32 first, only for autocast to cast it back.
    """
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def score_supervised_positions(model: Any) -> None:
    """Let trl's fused LM head project only positions that have a label, a few at a time.

    trl 1.16 does so on GPUs alone (`compact` in trl.trainer.utils.add_fused_lm_head); on a CPU it projects every
    position onto the whole vocabulary and runs that projection's backward in float32, which costs more than a small
    model's layers. The replacement returns the same `FusedCausalLMOutput`; call it once the trainer is built. A head
    that is itself trained, or a model that scales or caps its logits, keeps trl's own.
    """
    import torch
    from peft import PeftModel
    from trl.trainer.utils import FusedCausalLMOutput

    causal_lm: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    head = causal_lm.get_output_embeddings()
    config = causal_lm.config.get_text_config()
    if (
        type(head) is not torch.nn.Linear
        or head.weight.requires_grad
        or any(getattr(config, name, None) for name in CHANGED_LOGITS)
    ):
        return
    trl_forward = causal_lm.forward
    score = score_labels()

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return trl_forward(*args, labels=labels, **kwargs)
        num_items = kwargs.pop("num_items_in_batch", None)
        kwargs["use_cache"] = False
        hidden = self.base_model(*args, **kwargs).last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        mask = labels != -100
        scores = score(hidden[mask], head.weight, labels[mask])
        log_probs, entropy, mean_logits, is_top1 = (x.new_zeros(mask.shape).masked_scatter(mask, x) for x in scores)
        return FusedCausalLMOutput(
            loss=-log_probs.sum() / (mask.sum().clamp(min=1) if num_items is None else num_items),
            log_probs=log_probs,
            entropy=entropy,
            mean_logits=mean_logits,
            is_top1=is_top1,
            label_mask=mask,
        )

    causal_lm.forward = types.MethodType(forward, causal_lm)


def score_labels() -> Any:
    """A function of hidden states (n, width), a frozen head's weight (vocabulary, width) and labels (n).

    It returns the labels' log-probabilities, and without gradient the entropy of each distribution, its mean logit,
    and whether the label is the most likely token, each (n) and in float32. A label's log-probability depends on its
    own hidden state alone, so that the gradient is ready in the forward pass, `weight[label] - softmax @ weight`
    (derivative of log softmax), and no logits are kept: with a vocabulary of 49,152 they are most of a step's memory.
    """
    import torch

    class ScoreLabels(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: Any, weight: Any, labels: Any) -> tuple[Any, ...]:
            if torch.is_autocast_enabled(hidden.device.type):
                hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
            weight = weight.to(hidden.dtype)
            gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
            parts = []
            for start in range(0, len(labels), HEAD_ROWS):
                rows = slice(start, start + HEAD_ROWS)
                label = labels[rows, None]
                logits = (hidden[rows] @ weight.T).float()
                largest, top = logits.max(-1)
                probabilities = logits.softmax(-1)
                log_normaliser = largest - probabilities.gather(-1, top[:, None])[:, 0].log()
                log_probs = logits.gather(-1, label)[:, 0] - log_normaliser
                entropy = log_normaliser - torch.einsum("nv,nv->n", probabilities, logits)
                parts.append((log_probs, entropy, logits.mean(-1), top == label[:, 0]))
                if gradient is not None:
                    probabilities.scatter_add_(-1, label, torch.full_like(label, -1.0, dtype=torch.float32))
                    gradient[rows] = -(probabilities.to(hidden.dtype) @ weight)
            ctx.save_for_backward(gradient)
            scores = tuple(torch.cat(columns) for columns in zip(*parts, strict=True))
            ctx.mark_non_differentiable(*scores[1:])
            return scores

        @staticmethod
        def backward(ctx: Any, grad_log_probs: Any, *_: Any) -> tuple[Any, None, None]:
            (gradient,) = ctx.saved_tensors
            return gradient * grad_log_probs[:, None], None, None

    return ScoreLabels.apply


def dequantize_once(model: Any) -> None:
    """Keep the 16-bit values of 4-bit weights beside them, instead of computing them anew in each pass.

    A CPU has no 4-bit arithmetic: bitsandbytes dequantises each weight for every forward and every backward pass and
    multiplies in 16 bit, so that this changes no bit of the result. It costs 2 bytes a parameter.
    """
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit
    from torch.nn.functional import linear

    def multiply(x: Any, weight: Any, bias: Any) -> Any:
        return linear(x.to(weight.dtype), weight, bias)

    layers: list[Any] = [module for module in model.modules() if isinstance(module, Linear4bit)]
    for layer in layers:
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(layer.compute_dtype)
        layer.forward = partial(multiply, weight=weight, bias=layer.bias)
