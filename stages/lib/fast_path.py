"""The same loss with less work."""

import types
from typing import Any


def attend_within_documents(model: Any) -> None:
    """Let rows that were laid end to end (padding-free) attend to their own tokens alone, one row at a time.

    torch's plain attention would need a mask over all pairs of tokens of all rows, and takes twice as long with it
    (bench/fast_path.py). Reads the row borders from `cu_seq_lens_q`, which trl's padding-free collator gives.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    def attention(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, *, cu_seq_lens_q: Any, scaling: float, **_: Any
    ) -> tuple[Any, None]:
        borders = cu_seq_lens_q.tolist()
        rows = [
            scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, start:end],
                value[:, :, start:end],
                is_causal=True,
                scale=scaling,
                enable_gqa=True,
            )
            for start, end in zip(borders[:-1], borders[1:], strict=True)
        ]
        return torch.cat(rows, dim=2).transpose(1, 2).contiguous(), None

    AttentionInterface.register("within_documents", attention)
    AttentionMaskInterface.register("within_documents", lambda *_, **__: None)
    model.set_attn_implementation("within_documents")


def score_supervised_positions(model: Any) -> None:
    """Let trl's fused LM head project only positions that have a label.

    trl 1.16 does so on GPUs alone (`compact` in trl.trainer.utils.add_fused_lm_head); on a CPU it projects every
    position onto the whole vocabulary and runs that projection's backward in float32, which costs more than a small
    model's layers. The replacement returns the same `FusedCausalLMOutput`; call it once the trainer is built.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from trl.trainer.utils import FusedCausalLMOutput

    causal_lm = model.get_base_model() if hasattr(model, "peft_config") else model
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
