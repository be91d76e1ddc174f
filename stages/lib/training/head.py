"""The LM head: only on positions that have a label, and whole where weights are sharded over processes."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

from stages.lib.models.logits import logits_at
from stages.lib.training.decisions import Head
from stages.lib.training.memory import HEAD_ROWS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

CHANGED_LOGITS = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "output_multiplier",
    "lm_head_multiplier",
    "output_router_logits",
)
"""Configuration keys of models whose logits are more than head @ hidden + bias, or whose loss has another term."""


def gather_head(causal_lm: PreTrainedModel) -> None:
    """Have a frozen head whole when the loss takes its weight, where weights are sharded over processes (FSDP).

    FSDP gathers a module's weights for its forward, and the fused heads of trl and of `score_supervised_positions`
    read the weight without one. A head that shares the embeddings' weight is gathered with them, and one that is
    trained with the last norm (accelerate 1.15 doesn't find that one behind an adapter).
    """
    head = causal_lm.get_output_embeddings()
    if not head.weight.requires_grad and head.weight is not causal_lm.get_input_embeddings().weight:
        causal_lm.get_decoder().register_forward_hook(lambda *_: head.unshard())


def project_by(causal_lm: PreTrainedModel, head: Head) -> None:
    """Let trl's trainers score labels by `head`; trl has fused its own already."""
    if head is Head.supervised:
        score_supervised_positions(causal_lm)
    elif head is Head.model:
        score_own_logits(causal_lm)


def score_supervised_positions(causal_lm: PreTrainedModel) -> None:
    """Let trl's fused LM head project only positions that have a label, a few at a time.

    trl 1.16 does so on GPUs alone (`compact` in trl.trainer.utils.add_fused_lm_head); on a CPU it projects every
    position onto the whole vocabulary and runs that projection's backward in float32, which costs more than a small
    model's layers. The replacement returns the same `FusedCausalLMOutput`; call it once the trainer is built. A head
    that is itself trained, or a model that scales or caps its logits, keeps trl's own.
    """
    import torch

    head = causal_lm.get_output_embeddings()
    config = causal_lm.config.get_text_config()
    if (
        type(head) is not torch.nn.Linear
        or any(parameter.requires_grad for parameter in head.parameters())
        or any(getattr(config, name, None) for name in CHANGED_LOGITS)
    ):
        return
    trl_forward = causal_lm.forward
    score = score_labels()

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return trl_forward(*args, labels=labels, **kwargs)
        if kwargs.get("output_router_logits"):  # asked for with the batch: the loss has another term
            return trl_forward(*args, fused_lm_head=True, labels=labels, **kwargs)
        num_items = kwargs.pop("num_items_in_batch", None)
        kwargs["use_cache"] = False
        hidden = self.base_model(*args, **kwargs).last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        mask = labels != -100
        scores = score(hidden[mask], head.weight, head.bias, labels[mask])
        return fused_output(scores, mask, num_items)

    causal_lm.forward = types.MethodType(forward, causal_lm)


def score_own_logits(causal_lm: PreTrainedModel) -> None:
    """Let trl's trainers take log-probabilities from the logits that the model's own forward returns.

    For models whose forward does more between the last hidden state and the logits than trl's fused head knows. Call
    it once the trainer is built.
    """
    import torch

    trl_forward = causal_lm.forward

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return trl_forward(*args, labels=labels, **kwargs)
        num_items = kwargs.pop("num_items_in_batch", None)
        kwargs.pop("use_cache", None)
        mask = labels[:, 1:] != -100
        logits = logits_at(self, torch.nn.functional.pad(mask, (0, 1)), **kwargs).float()
        label = labels[:, 1:][mask][:, None]
        log_distribution = logits.log_softmax(-1)
        shares = log_distribution.detach().exp()
        entropy = -shares.mul_(log_distribution.detach()).sum(-1)
        top = logits.argmax(-1, keepdim=True) == label
        scores = log_distribution.gather(-1, label)[:, 0], entropy, logits.mean(-1).detach(), top[:, 0]
        return fused_output(scores, mask, num_items)

    causal_lm.forward = types.MethodType(forward, causal_lm)


def fused_output(scores: tuple[Tensor, ...], mask: Tensor, num_items: Tensor | int | None) -> Any:
    """trl's FusedCausalLMOutput of the `scores` of the positions in `mask`; see score_labels for what they are."""
    from trl.trainer.utils import FusedCausalLMOutput

    log_probs, entropy, mean_logits, is_top1 = (x.new_zeros(mask.shape).masked_scatter(mask, x) for x in scores)
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / (mask.sum().clamp(min=1) if num_items is None else num_items),
        log_probs=log_probs,
        entropy=entropy,
        mean_logits=mean_logits,
        is_top1=is_top1,
        label_mask=mask,
    )


def score_labels() -> Any:
    """A function of hidden states (n, width), a frozen head's weight (vocabulary, width) and bias, and labels (n).

    It returns the labels' log-probabilities, and without gradient the entropy of each distribution, its mean logit,
    and whether the label is the most likely token, each (n) and in float32. A label's log-probability depends on its
    own hidden state alone, so that the gradient is ready in the forward pass, `weight[label] - softmax @ weight`
    (derivative of log softmax), and no logits are kept: with a vocabulary of 49,152 they are most of a step's memory.
    """
    import torch

    class ScoreLabels(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> tuple[Any, ...]:
            if torch.is_autocast_enabled(hidden.device.type):
                hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
            weight = weight.to(hidden.dtype)
            bias = None if bias is None else bias.to(hidden.dtype)
            gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
            parts = []
            for start in range(0, max(1, len(labels)), HEAD_ROWS):  # a pass may learn nothing (keep_base.py)
                rows = slice(start, start + HEAD_ROWS)
                label = labels[rows, None]
                logits = hidden[rows] @ weight.T
                logits = (logits if bias is None else logits + bias).float()
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
        def backward(ctx: Any, grad_log_probs: Tensor, *_: object) -> tuple[Any, None, None, None]:
            (gradient,) = ctx.saved_tensors
            return gradient * grad_log_probs[:, None], None, None, None

    return ScoreLabels.apply
