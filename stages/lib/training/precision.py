"""In how many bits a model is trained, by what was asked and what was found."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from stages.lib.hardware import Hardware, resolve_dtype
from stages.lib.schema.choices import Engine, Method, Quantization
from stages.lib.schema.training import Training

Section = TypeVar("Section", bound=Training)

BYTES = {Quantization.none: 2.0, Quantization.int8: 1.0, Quantization.nf4: 0.55}
"""Bytes a weight, scales included."""

UNSLOTH_BITS = (Quantization.none, Quantization.nf4)
"""What Unsloth's kernels read."""

WEIGHTS_SHARE = 0.5
"""Of all memory, what the frozen weights may take. For a model of 8 billion weights that is the usual advice: 16 bit
from 32 GB, 8 bit from 16 GB, 4 bit below."""


def resolve_precision(
    name: str, section: Section, base: Path, hardware: Hardware
) -> tuple[Section, Any, dict[str, str]]:
    """Replace quantization=auto and dtype=auto by what suits `hardware`; say what was picked, and why.

    Returns the section with its quantization resolved, the torch dtype to compute in, and both as text for the run
    record. Raises UserError for a dtype that the hardware can't train in.
    """
    dtype = resolve_dtype(section.dtype, hardware)
    why = "as asked"
    if section.quantization is Quantization.auto:
        weights, memory = count_weights(base), hardware.total_memory
        section = replace(section, quantization=pick_quantization(section, weights, memory))
        why = f"{weights / 1e9:.2f} billion weights, {memory / 2**30:.0f} GiB of memory on {hardware.device}"
    record = {"quantization": section.quantization.value, "quantization_why": why, "dtype": str(dtype)}
    print(f"{name}: trains on {record['quantization']} weights ({why}), computes in {dtype}", flush=True)
    return section, dtype, record


def pick_quantization(section: Training, weights: int, memory: int) -> Quantization:
    """What quantization=auto means for so many `weights` and bytes of `memory`; as asked where it isn't auto."""
    if section.quantization is not Quantization.auto:
        return section.quantization
    if section.method is Method.full:
        return Quantization.none
    able = [bits for bits in BYTES if section.engine is Engine.trl or bits in UNSLOTH_BITS]
    fitting = (bits for bits in able if BYTES[bits] * weights <= WEIGHTS_SHARE * memory)
    return next(fitting, Quantization.nf4)


def count_weights(directory: Path) -> int:
    """How many weights the safetensors files of a model directory hold, by their headers alone."""
    from math import prod

    from safetensors import safe_open

    total = 0
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            total += sum(prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return total
