"""The single decisions of a plan, each with its reason in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from math import ceil
from types import MappingProxyType

from stages.lib.every_stage.errors import UserError
from stages.lib.hardware import Hardware
from stages.lib.schema.choices import Choice, Engine, Method, Quantization
from stages.lib.schema.training import Sft, Training

MUCH_PADDING = 0.2
"""Share of padding from which on rows are packed on a GPU: attention over them is slower to start."""

COMPILE_PASSES = 500
"""Forward passes from which on torch.compile has earned the minute that it takes (bench/training.py)."""


class Attention(Enum):
    """What attends: the first three need no mask over all pairs of tokens."""

    row_by_row = "row_by_row"  # explicit, on a CPU
    varlen = "varlen"  # flash attention over packed rows
    causal = "causal"  # torch's fused attention over padded rows
    model = "model"  # the model's own, as transformers would have it, with its mask
    engine = "engine"  # whatever the engine has of its own


class Head(Enum):
    """What makes log-probabilities of the last hidden states."""

    supervised = "supervised"  # ours, of the positions that have a label, on a CPU
    fused = "fused"  # trl's, in tiles
    model = "model"  # the model's own logits, all at once
    engine = "engine"  # whatever the engine has of its own


@dataclass
class Passes:
    """What a forward and backward pass takes, and so how much memory."""

    rows: int
    checkpointing: bool
    dequantize: bool = False


def decide_dequantize(section: Training, hardware: Hardware, fits: bool) -> tuple[bool, str]:
    """Whether 16-bit values are kept of 4-bit weights, where `fits` says that there is room, and why."""
    if section.quantization is not Quantization.nf4:
        return False, "no 4-bit weights"
    if section.engine is Engine.unsloth:
        return False, "Unsloth's kernels read 4-bit weights"
    if section.dequantize_once is not Choice.auto:
        return section.dequantize_once is Choice.always, "as asked"
    if hardware.sharded:
        return False, "what is sharded over processes is sent in 4 bits"
    return fits, "there is room for 16-bit values" if fits else "16-bit values would not fit"


def optimizer_steps(section: Training, rows: int) -> int:
    """Optimizer steps of the whole run."""
    if section.max_steps > 0:
        return section.max_steps
    return ceil(ceil(rows / section.batch_size) * section.num_train_epochs)


def decide_attention(
    name: str,
    section: Training,
    hardware: Hardware,
    lengths: list[int],
    sequences: int,
    ruled_out: Mapping[str, str] = MappingProxyType({}),
) -> tuple[bool, Attention, str]:
    """Whether rows are packed, what attends to them, and why.

    Raises UserError where sft.padding_free=always is asked of hardware or of a model that can't.
    """
    asked = section.padding_free if isinstance(section, Sft) else Choice.never
    if section.engine is Engine.unsloth:
        return decide_for_unsloth(asked, lengths)
    able = hardware.device == "cpu" or hardware.capability >= (8, 0)
    if asked is Choice.always and not able:
        raise UserError(
            f"{name}.padding_free: found always on a GPU of capability {hardware.capability[0]}."
            f"{hardware.capability[1]}, needed 8.0 or newer for attention that keeps rows apart; set auto or never"
        )
    kept_apart = not {"padding_free", "attention"} & set(ruled_out)
    if asked is Choice.always and not kept_apart:
        reason = next(iter(ruled_out.values()))
        raise UserError(
            f"{name}.padding_free: found always, but this model doesn't keep packed rows apart ({reason}); "
            "set auto or never"
        )
    if "attention" in ruled_out:
        return False, Attention.model, ruled_out["attention"]
    padding_free = able and asked is not Choice.never and sequences == 1 and kept_apart
    if hardware.device == "cpu":
        return padding_free, Attention.row_by_row, ruled_out.get("padding_free", "faster than fused attention on a CPU")
    padding = padding_of(lengths)
    if asked is Choice.auto and padding < MUCH_PADDING:
        return False, Attention.causal, f"padding would be {padding:.0%} at most, and needs no mask"
    if padding_free:
        return True, Attention.varlen, f"keeps packed rows apart; padding would be up to {padding:.0%}"
    return False, Attention.causal, ruled_out.get("padding_free", "right padding needs no mask")


def decide_head(
    section: Training, hardware: Hardware, all_logits: bool, ruled_out: Mapping[str, str] = MappingProxyType({})
) -> tuple[Head, str]:
    """What projects onto the vocabulary, and why; `all_logits` says that the trainer wants every position's."""
    if section.engine is Engine.unsloth:
        return Head.engine, "Unsloth's choice"
    if all_logits:
        return Head.model, "its trainer reads the logits of all positions"
    heads = {Head.supervised: "of the positions with a label alone", Head.fused: "trl's, in tiles"}
    if hardware.device == "cuda":
        del heads[Head.supervised]
    reasons = [ruled_out[key] for head in heads if (key := f"head={head.value}") in ruled_out]
    return next(
        ((head, "; ".join([why, *reasons])) for head, why in heads.items() if f"head={head.value}" not in ruled_out),
        (Head.model, "; ".join(reasons)),
    )


def padding_of(lengths: list[int]) -> float:
    """The share of padding where rows of these `lengths` in tokens are padded to the longest of all."""
    return 1 - sum(lengths) / (max(lengths) * len(lengths))


def decide_for_unsloth(asked: Choice, lengths: list[int]) -> tuple[bool, Attention, str]:
    """As decide_attention. Without these packages Unsloth attends over packed rows with a mask of all pairs."""
    kernels = [name for name in ("flash_attn", "xformers") if find_spec(name)]
    worth = bool(kernels) and padding_of(lengths) >= MUCH_PADDING
    padding_free = asked is Choice.always or (asked is Choice.auto and worth)
    found = " and ".join(kernels) or "neither flash_attn nor xformers"
    return padding_free, Attention.engine, f"Unsloth's choice; found {found}"


def decide_compile(name: str, section: Training, hardware: Hardware, passes: int) -> tuple[bool, str]:
    """Whether Graft compiles layers, and why."""
    if section.engine is Engine.unsloth:
        return False, "Unsloth compiles what it wants compiled"
    if section.torch_compile is Choice.always:
        if not hardware.compiler:
            raise UserError(
                f"{name}.torch_compile: found always, but no GPU with Triton and a C compiler; needed one. "
                "Install gcc (CC names another compiler), or set auto"
            )
        return True, "as asked"
    if section.torch_compile is Choice.never:
        return False, "as asked"
    if hardware.device == "cpu":
        return False, "on a CPU it gains nothing here"
    if not hardware.compiler:
        return False, "no Triton with a C compiler for this GPU"
    if hardware.sharded:
        return False, "weights that are sharded over processes come and go within a layer"
    if passes < COMPILE_PASSES:
        return False, f"{passes} forward passes are too few to pay for it ({COMPILE_PASSES})"
    return True, f"{passes} forward passes pay for it"


def decide_graphs(
    name: str, section: Training, hardware: Hardware, steps: int, passes: Passes, attention: Attention
) -> tuple[bool, str]:
    """Whether the decoder's passes are recorded and replayed (cuda_graphs.py), and why."""
    hindrances = {
        "there is no GPU": hardware.device == "cpu",
        "the model's own attention takes a mask": attention is Attention.model,
        "Unsloth runs the decoder": section.engine is Engine.unsloth,
        "layers are recomputed": passes.checkpointing,
        "a step takes several passes": passes.rows < section.batch_size,
        "weights that are sharded over processes come and go": hardware.sharded,
        "each shape of a batch would keep gradients of all weights": section.method is Method.full,
        "8-bit weights ask the host in each layer": section.quantization is Quantization.int8,
    }
    why = next((hindrance for hindrance, found in hindrances.items() if found), None)
    if section.cuda_graphs is Choice.always:
        if why:
            raise UserError(f"{name}.cuda_graphs: found always, but {why}; needed a GPU that takes a step in one pass")
        return True, "as asked"
    if section.cuda_graphs is Choice.never:
        return False, "as asked"
    if why:
        return False, why
    if hardware.processes > 1:
        return False, "not tried with several processes; always asks for it"
    if steps < COMPILE_PASSES:
        return False, f"{steps} forward passes are too few to pay for recording ({COMPILE_PASSES})"
    return True, "a pass is one launch for the host"
