"""The section of probe_base: what of the later sections decides whether a model can go through the chain at all."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from stages.lib.schema.choices import Algorithm, Dtype, MergeBase, Method, Quantization, StartFrom
from stages.lib.schema.training import ALL_LINEAR


@dataclass
class Tried:
    """Of a training section."""

    method: Method = Method.lora
    quantization: Quantization = MISSING
    dtype: Dtype = Dtype.auto
    target_modules: Any = ALL_LINEAR


@dataclass
class ProbeBase:
    sft: Tried = field(default_factory=Tried)
    merge_base: MergeBase = MISSING
    dpo: Tried = field(default_factory=Tried)
    preference: Tried = field(default_factory=Tried)
    preference_enabled: bool = False
    preference_algorithm: Algorithm = Algorithm.orpo
    preference_start: StartFrom = StartFrom.auto
