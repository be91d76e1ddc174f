"""The section of prune."""

from dataclasses import dataclass
from typing import ClassVar

from stages.lib.schema.bounds import Section, at_least, bounded
from stages.lib.schema.choices import Pruned


@dataclass
class Prune(Section):
    """Layers taken out of a merged model: those that change their input least (Men et al. 2024, arXiv 2403.03853)."""

    NAME: ClassVar[str] = "prune"
    enabled: bool = False
    model: Pruned = Pruned.sft
    layers: int = bounded(at_least(0), 2)  # that are taken out
    rows: int = bounded(at_least(1), 64)  # training conversations that the influence of a layer is measured on
