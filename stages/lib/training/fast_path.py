"""The same loss with less work: how the training stages carry out what plan.py decided."""

import types
from functools import lru_cache
from itertools import pairwise
from typing import Any

from stages.lib.training.cuda_graphs import BUCKET, fill_up, replay_decoder
from stages.lib.training.decisions import Attention
from stages.lib.training.memory import HEAD_ROWS
from stages.lib.training.plan import Plan

CHANGED_LOGITS = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "output_multiplier",
    "lm_head_multiplier",
    "output_router_logits",
)
"""Configuration keys of models whose logits are more than head @ hidden, or whose loss has another term."""


def speed_up_model(model: Any, plan: Plan, dtype: Any) -> Any:
    """Prepare `model`, before a trainer is built on it, for the steps that `plan` decided; returns the model.

    `dtype` is what training computes in.
    """
    if plan.dequantize_once:
        # A 4-bit weight is dequantised for every forward and every backward pass and multiplied in 16 bit: doing that
        # once changes no bit of the result. It costs 2 bytes a parameter.
        model = model.dequantize(dtype=dtype)
    attend_without_mask(model, plan, dtype)
    return model


def speed_up_trainer(trainer: Any, plan: Plan, dtype: Any) -> None:
    """Prepare the model of a trl trainer, its adapter included, for the steps that `plan` decided."""
    skip_adapter_casts(trainer.model)
    if plan.sharded:
        gather_head(causal_lm_of(trainer.model))
    else:  # FSDP puts other parameters into the place of those that this remembers
        spare_the_host(trainer)
    if plan.attention is Attention.row_by_row:
        score_supervised_positions(trainer.model)
    if plan.torch_compile:
        for layer in causal_lm_of(trainer.model).get_decoder().layers:
            # One program for all layers, and another once lengths differ. It rounds to 16 bit wherever an uncompiled
            # layer does: without that, losses of a step were up to 0.024 apart, with it 0.001 (bench/training.py).
            layer.compile(options={"emulate_precision_casts": True})
    if plan.cuda_graphs:
        replay_decoder(trainer.model, causal_lm_of(trainer.model).get_decoder(), dtype)
        if plan.padding_free:
            collate = trainer.data_collator
            trainer.data_collator = lambda rows: fill_up(collate(rows))


def causal_lm_of(model: Any) -> Any:
    """The model itself, out of the wrapper that an adapter puts around it."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


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


def skip_adapter_casts(model: Any) -> None:
    """Let autocast alone choose the precision of adapters.

    peft would cast each adapted layer's input to the adapter's float32 first, only for autocast to cast it back.
    """
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def gather_head(causal_lm: Any) -> None:
    """Have a frozen head whole when the loss takes its weight, where weights are spread over processes (FSDP).

    FSDP gathers a module's weights for its forward, and the fused heads of trl and of `score_supervised_positions`
    read the weight without one. A head that shares the embeddings' weight is gathered with them, and one that is
    trained with the last norm (accelerate 1.15 doesn't find that one behind an adapter).
    """
    head = causal_lm.get_output_embeddings()
    if not head.weight.requires_grad and head.weight is not causal_lm.get_input_embeddings().weight:
        causal_lm.get_decoder().register_forward_hook(lambda *_: head.unshard())


def spare_the_host(trainer: Any) -> None:
    """Leave out walks over all modules that a trl trainer takes in every step; a fast GPU waits for each.

    With an adapter a model of 22 layers has some 1,500 modules. What is left out counts floating-point operations,
    which nobody reads, and sets a mode that is set; what needs the parameters gets those that are trained.
    """
    from transformers import TrainerCallback

    model = trainer.model

    class SpareInTheWrapper(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            trainer.model_wrapped.parameters = model.parameters  # what several processes (DDP) put around the model

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    set_mode = model.train
    trainer.floating_point_ops = lambda inputs: 0
    model.parameters = lambda recurse=True: iter(trained)  # clip_grad_norm_ and zero_grad ask for them
    model.train = lambda mode=True: model if model.training is mode else set_mode(mode)
    trainer.add_callback(SpareInTheWrapper())


def score_supervised_positions(model: Any) -> None:
    """Let trl's fused LM head project only positions that have a label, a few at a time.

    trl 1.16 does so on GPUs alone (`compact` in trl.trainer.utils.add_fused_lm_head); on a CPU it projects every
    position onto the whole vocabulary and runs that projection's backward in float32, which costs more than a small
    model's layers. The replacement returns the same `FusedCausalLMOutput`; call it once the trainer is built. A head
    that is itself trained, or a model that scales or caps its logits, keeps trl's own.
    """
    import torch
    from trl.trainer.utils import FusedCausalLMOutput

    causal_lm = causal_lm_of(model)
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
