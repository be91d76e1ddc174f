"""How an optimizer step is computed on the hardware found: decisions that change speed and memory alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.errors import require
from stages.lib.hardware import Hardware
from stages.lib.models.shape import shape_of
from stages.lib.schema.choices import Choice, Distributed, Optim
from stages.lib.schema.training import Training, divisors
from stages.lib.training.decisions import (
    Attention,
    Head,
    Passes,
    decide_attention,
    decide_compile,
    decide_dequantize,
    decide_graphs,
    decide_head,
    optimizer_steps,
)
from stages.lib.training.memory import GIB, Estimate, estimate, too_large

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU_MICRO_BATCH_TOKENS = 1024
GPU_MICRO_BATCH_TOKENS = 32768
"""Tokens of one forward pass, by the longest row. On two cores larger passes are no faster a token, and pairs of
unlike length are padded more in them."""

FREE_SHARE = 0.9
"""Of the memory that is free, what a step may take by the estimate."""

PAD_TO = 64


@dataclass
class Plan:
    """What was decided, and why; kept in the run record."""

    processes: int  # that share a step
    sharded: bool  # the weights are sharded over them (FSDP)
    micro_batch_size: int  # rows per forward pass of a process
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    attention: Attention
    head: Head
    padding_free: bool  # rows packed instead of padded to one length
    pad_to_multiple_of: int | None  # tokens; few lengths, so that little is compiled anew
    torch_compile: bool  # of each layer
    cuda_graphs: bool  # the decoder's passes replayed
    dequantize_once: bool  # keep 16-bit values of 4-bit weights
    optim: str
    longest: int  # tokens of the longest sequence
    sequences: int  # of a row; a pair has two
    estimated_mib: int  # of a process, beyond the loaded model
    free_mib: int
    parity: float = float("nan")  # nats between its log-probabilities and the model's own, at most (parity.py)
    parity_tokens: int = 0  # over so many
    why: dict[str, str] = field(default_factory=dict)

    def decisions(self) -> dict[str, Any]:
        """What was decided, without what was measured: equal for two runs that compute the same."""
        measured = ("estimated_mib", "free_mib", "parity", "parity_tokens", "why")
        return {key: value for key, value in self.record().items() if key not in measured}

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"attention": self.attention.value, "head": self.head.value}

    def block(self, name: str) -> str:
        """What was decided and why, for people, a line each."""
        values = self.record()
        lines = [f"{key:28}{values[key]!s:20}{why}" for key, why in self.why.items()]
        return "\n".join([f"{name}: how each step is computed", *(f"  {line}" for line in lines)])


def make_plan(
    name: str,
    section: Training,
    model: PreTrainedModel,
    lengths: list[int],
    hardware: Hardware,
    sequences: int = 1,
    all_logits: bool = False,
    ruled_out: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """Decide how one optimizer step of `section.batch_size` rows is computed on `hardware`.

    `lengths` are the rows' in tokens, by the longest sequence of those that a row has (`sequences`; a pair: 2);
    `name` is the section's; `all_logits` says that the trainer projects every position onto the vocabulary at once;
    `ruled_out` are pieces of the fast path that this model can't take, and why (parity.py).
    Micro-batch times accumulation times `hardware.processes` is always the batch size. What a setting leaves open
    (micro_batch_size 0, a choice that is auto) is chosen so that the step fits. Raises UserError naming two settings
    if it can't, the one that the hardware can't do, or a batch size that the processes can't share evenly.
    """
    processes = hardware.processes
    require(
        section.batch_size % processes == 0,
        f"{name}.batch_size",
        section.batch_size,
        f"a multiple of the {processes} processes that share it; or {name}.processes, one of "
        f"{divisors(section.batch_size)}",
    )
    share = section.batch_size // processes  # rows of a step for each process
    head, head_why = decide_head(section, hardware, all_logits, ruled_out)
    longest, on_cpu = max(lengths), hardware.device == "cpu"
    shape, parameters = shape_of(model), model.num_parameters()

    def needed(passes: Passes, tokens: int = longest, changed: Training = section) -> Estimate:
        return estimate(
            changed,
            shape,
            parameters,
            passes.rows * sequences * tokens,
            on_cpu=on_cpu,
            checkpointing=passes.checkpointing,
            dequantized=passes.dequantize,
            all_logits=head is Head.model,
            shards=processes if hardware.sharded else 1,
        )

    room = int(FREE_SHARE * hardware.free_memory)
    own = replace(section, batch_size=share, processes=0)
    passes, passes_why = decide_passes(name, own, hardware, longest, sequences, room, needed)
    accumulation = share // passes.rows
    padding_free, attention, attention_why = decide_attention(name, section, hardware, lengths, sequences, ruled_out)
    steps = optimizer_steps(section, len(lengths)) * accumulation
    torch_compile, compile_why = decide_compile(name, section, hardware, steps)
    cuda_graphs, graphs_why = decide_graphs(name, own, hardware, steps, passes, attention)
    # Paging is a GPU affair; on a CPU bitsandbytes runs its plain AdamW instead, slower than torch's.
    unpaged = on_cpu and section.optim is Optim.paged_adamw_32bit
    total = needed(passes).total()
    memory = f"about {total / GIB:.1f} of {hardware.free_memory / GIB:.1f} free GiB"
    return Plan(
        processes=processes,
        sharded=hardware.sharded,
        micro_batch_size=passes.rows,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=passes.checkpointing,
        attention=attention,
        head=head,
        padding_free=padding_free,
        pad_to_multiple_of=None if on_cpu or padding_free or attention is Attention.engine else PAD_TO,
        torch_compile=torch_compile,
        cuda_graphs=cuda_graphs,
        dequantize_once=passes.dequantize,
        optim=(Optim.adamw_torch_fused if unpaged else section.optim).value,
        longest=longest,
        sequences=sequences,
        estimated_mib=total // 2**20,
        free_mib=hardware.free_memory // 2**20,
        why={
            **processes_why(section, hardware),
            "micro_batch_size": f"of a batch of {section.batch_size}, rows of up to {longest} tokens; {memory}",
            "attention": attention_why,
            "head": head_why,
            "padding_free": "rows are packed" if padding_free else "rows are padded to the longest of a pass",
            "torch_compile": compile_why,
            "cuda_graphs": graphs_why,
            "optim": "no paging on a CPU" if unpaged else "as asked",
            **passes_why,
        },
    )


def processes_why(section: Training, hardware: Hardware) -> dict[str, str]:
    """Why so many processes share a step, where several were asked for."""
    if hardware.processes > 1:
        shared = "each holds a part of the weights" if hardware.sharded else "each holds the whole model"
        return {"processes": f"{section.batch_size // hardware.processes} rows of a step each; {shared}"}
    if section.distributed is not Distributed.none:
        return {"processes": "one GPU, or a batch of one row" if hardware.device == "cuda" else "no GPU is visible"}
    return {}


def decide_passes(
    name: str,
    section: Training,
    hardware: Hardware,
    longest: int,
    sequences: int,
    room: int,
    needed: Callable[..., Estimate],
) -> tuple[Passes, dict[str, str]]:
    """The largest passes that fit into `room` bytes by `needed`, and why; see make_plan for the other arguments.

    `section`'s batch size is the share of one process.
    """
    budget = CPU_MICRO_BATCH_TOKENS if hardware.device == "cpu" else GPU_MICRO_BATCH_TOKENS
    most = section.micro_batch_size or max(1, budget // (sequences * longest))
    divisors = [rows for rows in range(section.batch_size, 0, -1) if section.batch_size % rows == 0 and rows <= most]
    sizes = divisors[:1] if section.micro_batch_size else divisors
    auto = section.gradient_checkpointing is Choice.auto
    checkpoints = [False, True] if auto else [section.gradient_checkpointing is Choice.always]
    # Recomputing a layer costs a third more time; smaller micro-batches cost less, so they come first.
    choices = [Passes(rows, checkpointing) for checkpointing in checkpoints for rows in sizes]
    passes = next((each for each in choices if needed(each).total() <= room), None)
    if passes is None:
        raise too_large(needed(choices[-1]), room, remedies(name, section, choices[-1], longest, needed))
    checkpointing_why = "as asked" if not auto else "it fits only so" if passes.checkpointing else "it fits"
    fits = needed(replace(passes, dequantize=True)).total() <= room
    dequantize, dequantize_why = decide_dequantize(section, hardware, fits)
    why = {"gradient_checkpointing": checkpointing_why, "dequantize_once": dequantize_why}
    return replace(passes, dequantize=dequantize), why


def remedies(
    name: str, section: Training, passes: Passes, longest: int, needed: Callable[..., Estimate]
) -> dict[str, Estimate]:
    """Settings that take less memory than `passes`, with what they take."""
    half, rank = longest // 2, max(1, section.lora.r // 4)
    smaller = {
        f"{name}.micro_batch_size=1": needed(replace(passes, rows=1)),
        f"{name}.gradient_checkpointing=always": needed(replace(passes, checkpointing=True)),
        f"{name}.max_length={half}": needed(passes, tokens=half),
        f"{name}.lora.r={rank}": needed(passes, changed=replace(section, lora=replace(section.lora, r=rank))),
    }
    found = needed(passes).total()
    return {setting: less for setting, less in smaller.items() if less.total() < found}
