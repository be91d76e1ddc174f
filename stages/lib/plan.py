"""How an optimizer step is computed on the hardware found: decisions that change speed and memory alone."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from stages.lib.hardware import device
from stages.lib.memory import Estimate, estimate, free_memory, too_large
from stages.lib.schema import Checkpointing, Optim, Quantization, Training

CPU_MICRO_BATCH_TOKENS = 1024
GPU_MICRO_BATCH_TOKENS = 16384
"""Tokens of one forward pass, by the longest row. On two cores larger passes are no faster a token, and pairs of
unlike length are padded more in them."""

FREE_SHARE = 0.9
"""Of the memory that is free, what a step may take by the estimate."""


@dataclass
class Plan:
    """What was decided; kept in the run record."""

    micro_batch_size: int  # rows per forward pass
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    dequantize_once: bool  # keep 16-bit values of 4-bit weights
    optim: str
    estimated_mib: int  # beyond the loaded model
    free_mib: int

    def decisions(self) -> dict[str, Any]:
        """What was decided, without what was measured: equal for two runs that compute the same."""
        return {key: value for key, value in asdict(self).items() if not key.endswith("_mib")}


def make_plan(
    name: str, section: Training, model: Any, longest: int, sequences: int = 1, all_logits: bool = False
) -> Plan:
    """Decide how one optimizer step of `section.batch_size` rows is computed.

    `longest` is the longest sequence in tokens, of which a row has `sequences` (a pair: 2); `name` is the section's;
    `all_logits` says that the trainer projects every position onto the vocabulary at once.
    Micro-batch times accumulation is always the batch size. What a setting leaves open (micro_batch_size 0,
    gradient_checkpointing auto) is chosen so that the step fits. Raises UserError naming two settings if it can't.
    """
    on_cpu = device() == "cpu"
    budget = CPU_MICRO_BATCH_TOKENS if on_cpu else GPU_MICRO_BATCH_TOKENS
    # Paging is a GPU affair; on a CPU bitsandbytes runs its plain AdamW instead, slower than torch's.
    optim = Optim.adamw_torch_fused if on_cpu and section.optim is Optim.paged_adamw_32bit else section.optim
    config, parameters, free = model.config.get_text_config(), model.num_parameters(), free_memory()
    four_bit_on_cpu = on_cpu and section.quantization is Quantization.nf4

    def needed(
        micro: int, checkpointing: bool, dequantize: bool = False, tokens: int = longest, changed: Training = section
    ) -> Estimate:
        return estimate(
            changed,
            config,
            parameters,
            micro * sequences * tokens,
            checkpointing=checkpointing,
            dequantized=dequantize,
            all_logits=all_logits,
        )

    def fits(*choice: Any) -> bool:
        return needed(*choice).total() <= FREE_SHARE * free

    micros = [rows for rows in range(section.batch_size, 0, -1) if section.batch_size % rows == 0]
    most = section.micro_batch_size or max(1, budget // (sequences * longest))
    micros = [rows for rows in micros if rows <= most]
    if section.micro_batch_size:
        micros = micros[:1]
    auto = section.gradient_checkpointing is Checkpointing.auto
    checkpoints = [False, True] if auto else [section.gradient_checkpointing is Checkpointing.always]
    # Recomputing a layer costs a third more time; smaller micro-batches cost less, so they come first.
    choices = [(micro, checkpointing) for checkpointing in checkpoints for micro in micros]
    choice = next((each for each in choices if fits(*each)), None)
    if choice is None:
        micro, checkpointing = choices[-1]
        found = needed(micro, checkpointing)
        half, rank = longest // 2, max(1, section.lora.r // 4)
        remedies = {
            f"{name}.micro_batch_size=1": needed(1, checkpointing),
            f"{name}.gradient_checkpointing=always": needed(micro, True),
            f"{name}.max_length={half}": needed(micro, checkpointing, tokens=half),
            f"{name}.lora.r={rank}": needed(
                micro, checkpointing, changed=replace(section, lora=replace(section.lora, r=rank))
            ),
        }
        remedies = {setting: less for setting, less in remedies.items() if less.total() < found.total()}
        raise too_large(name, found, int(FREE_SHARE * free), remedies)
    micro, checkpointing = choice
    dequantize_once = four_bit_on_cpu and fits(micro, checkpointing, True)
    return Plan(
        micro_batch_size=micro,
        gradient_accumulation_steps=section.batch_size // micro,
        gradient_checkpointing=checkpointing,
        dequantize_once=dequantize_once,
        optim=optim.value,
        estimated_mib=needed(micro, checkpointing, dequantize_once).total() // 2**20,
        free_mib=free // 2**20,
    )
