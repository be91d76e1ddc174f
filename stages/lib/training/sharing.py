"""Whether each process holds the whole model (ddp) or a part of it (fsdp)."""

from pathlib import Path

from stages.lib.every_stage.errors import UserError
from stages.lib.models.shape import Shape, shape_in
from stages.lib.schema.choices import Choice, Distributed, Method, Quantization
from stages.lib.schema.training import Sft, Training
from stages.lib.training.memory import GIB, estimate
from stages.lib.training.plan import FREE_SHARE
from stages.lib.training.precision import BYTES, count_weights, pick_quantization

MASTER_BYTES = 4
"""Bytes a weight that is itself trained (method=full): it is kept in float32."""


def decide_sharing(section: Training, base: Path, processes: int) -> tuple[Distributed, str]:
    """ddp or fsdp for `section` on the model in `base`, as asked or by the memory of this machine's GPUs, and why.

    Raises UserError for fsdp without GPUs.
    """
    import torch

    gpus = range(torch.cuda.device_count())
    if not gpus:
        if section.distributed is Distributed.fsdp:
            raise UserError(
                f"{type(section).__name__.lower()}.distributed: found fsdp, but no GPU is visible; accelerate shards "
                "models on GPUs alone. Set ddp, or none"
            )
        return Distributed.ddp, f"{processes} were asked for, on a CPU"
    if section.distributed is not Distributed.auto:
        return section.distributed, "as asked"
    memory = min(torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus)
    return share_out(section, shape_in(base), count_weights(base), memory)


def share_out(section: Training, shape: Shape, weights: int, memory: int) -> tuple[Distributed, str]:
    """ddp where the smallest possible step fits into `memory` bytes of one GPU beside the whole model, else fsdp.

    `shape` is the model's, `weights` how many it has. ddp is the faster one: it exchanges the
    gradients of what is trained, fsdp every weight, twice a step.
    """
    whole = section.method is Method.full
    bits = pick_quantization(section, weights, memory)
    held = weights * (MASTER_BYTES if whole else BYTES[bits])
    checkpointing = section.gradient_checkpointing is not Choice.never
    step = estimate(
        section,
        shape,
        weights,
        max(1, section.micro_batch_size) * section.max_length * (1 if isinstance(section, Sft) else 2),
        on_cpu=False,
        checkpointing=checkpointing,
        dequantized=False,
        all_logits=False,
    )
    needed = held + step.total()
    numbers = f"{needed / GIB:.1f} GiB at least with the whole model, of {memory / GIB:.0f} GiB of one GPU"
    if needed <= FREE_SHARE * memory:
        return Distributed.ddp, numbers
    if bits is Quantization.int8:
        raise UserError(
            f"{type(section).__name__.lower()}.quantization: found int8, with which a step takes {numbers}; int8 "
            "weights can't be sharded over GPUs. Set none or nf4"
        )
    return Distributed.fsdp, numbers
