"""The primary config: every section, and what they must agree in."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from stages.lib.every_stage.errors import require
from stages.lib.schema.choices import MergeBase, Quantization, StartFrom, SystemMessages
from stages.lib.schema.data import PrepareBase, PreparePdfQa, PreparePreferences, PrepareUltrachat
from stages.lib.schema.evaluation import Benchmark, Evaluate, Judge, Quantize, Report, SamplePreferences
from stages.lib.schema.merging import Merge, MergeDpo, MergeHeal, MergePreference, MergeRl
from stages.lib.schema.probe import ProbeBase
from stages.lib.schema.pruning import Prune
from stages.lib.schema.reinforcement import Reward, Rl
from stages.lib.schema.training import Dpo, Heal, Preference, Sft


@dataclass
class Config:
    """The primary config: one section per stage, and what conf/config.yaml gives to several of them."""

    seed: int = 42
    system_messages: SystemMessages = SystemMessages.fold  # of chats and pairs, training's and evaluation's
    prepare_base: PrepareBase = MISSING
    probe_base: ProbeBase = MISSING
    prepare_ultrachat: PrepareUltrachat = MISSING
    prepare_pdf_qa: PreparePdfQa = MISSING
    prepare_preferences: PreparePreferences = MISSING
    sft: Sft = MISSING
    merge: Merge = MISSING
    sample_preferences: SamplePreferences = MISSING
    dpo: Dpo = MISSING
    merge_dpo: MergeDpo = MISSING
    preference: Preference = MISSING
    merge_preference: MergePreference = MISSING
    reward: Reward = MISSING
    rl: Rl = MISSING
    merge_rl: MergeRl = MISSING
    prune: Prune = field(default_factory=Prune)
    heal: Heal = MISSING
    merge_heal: MergeHeal = MISSING
    evaluate: Evaluate = MISSING
    quantize: Quantize = field(default_factory=Quantize)
    judge: Judge = MISSING
    benchmark: Benchmark = MISSING
    report: Report = field(default_factory=Report)


def check_together(sft: Sft, merge: Merge, dpo: Dpo, preference: Preference) -> None:
    """Raise UserError for sections that are each possible and ruin a model together."""
    again: list[Dpo | Preference] = [dpo]
    if preference.enabled and preference.started_from() is StartFrom.sft:
        again.append(preference)
    for section in again:
        require(
            merge.base is MergeBase.original or section.quantization is Quantization.none,
            "merge.base",
            merge.base.value,
            f"original, since {section.NAME}.quantization={section.quantization.value} would quantise the merged "
            f"weights again, and what was added to a quantised grid rounds back to it; or {section.NAME}."
            "quantization=none",
        )
    require(
        merge.base is MergeBase.original or sft.quantization is not Quantization.none,
        "merge.base",
        merge.base.value,
        "original, since sft.quantization=none trained on the original weights",
    )
