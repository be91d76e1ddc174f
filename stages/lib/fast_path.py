"""The same loss with less work."""

import types
from itertools import pairwise
from typing import Any


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

    def attend(query: Any, key: Any, value: Any, scaling: float) -> Any:
        """Softmax attention of (batch, heads, length, width); query heads share the fewer key heads in groups."""
        batch, heads, length, width = query.shape
        groups = key.shape[1]
        query = query.reshape(batch, groups, heads // groups * length, width)
        scores = (query @ key.transpose(2, 3)).float() * scaling
        future = torch.full((length, length), float("-inf"), device=query.device).triu(1)
        scores = scores.view(batch, groups, heads // groups, length, length) + future
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
    """Let trl's fused LM head project only positions that have a label.

    trl 1.16 does so on GPUs alone (`compact` in trl.trainer.utils.add_fused_lm_head); on a CPU it projects every
    position onto the whole vocabulary and runs that projection's backward in float32, which costs more than a small
    model's layers. The replacement returns the same `FusedCausalLMOutput`; call it once the trainer is built.
    """
    import torch
    from peft import PeftModel
    from torch.nn.functional import cross_entropy
    from trl.trainer.utils import FusedCausalLMOutput

    causal_lm = model.get_base_model() if isinstance(model, PeftModel) else model
    trl_forward = causal_lm.forward

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return trl_forward(*args, labels=labels, **kwargs)
        kwargs.pop("num_items_in_batch", None)
        kwargs["use_cache"] = False
        hidden = self.base_model(*args, **kwargs).last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        mask = labels != -100
        logits = self.lm_head(hidden[mask]).float()
        log_probs = -cross_entropy(logits, labels[mask], reduction="none")
        with torch.no_grad():
            log_normaliser = logits.logsumexp(-1)
            entropy = log_normaliser - (torch.softmax(logits, -1) * logits).sum(-1)
            is_top1 = logits.argmax(-1) == labels[mask]
            mean_logits = logits.mean(-1)

        def placed(values: Any) -> Any:
            return values.new_zeros(mask.shape).masked_scatter(mask, values)

        return FusedCausalLMOutput(
            loss=-log_probs.sum() / mask.sum().clamp(min=1),
            log_probs=placed(log_probs),
            entropy=placed(entropy),
            mean_logits=placed(mean_logits),
            is_top1=placed(is_top1),
            label_mask=mask,
        )

    causal_lm.forward = types.MethodType(forward, causal_lm)
