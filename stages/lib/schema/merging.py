"""The sections of the merges: apart from training's, so that an edit here trains nothing again."""

from dataclasses import dataclass
from typing import ClassVar

from stages.lib.schema.bounds import Section, at_least, bounded, more_than, one_of
from stages.lib.schema.choices import Dtype, MergeBase


@dataclass
class Merge(Section):
    NAME: ClassVar[str] = "merge"
    # Where the adapter is added: the weights before quantisation, or as training saw them. The first loses what the
    # adapter learned against quantised weights; the second loses it when something quantises the result again.
    base: MergeBase = MergeBase.original
    dtype: Dtype = bounded(one_of(Dtype.bfloat16, Dtype.float16), Dtype.bfloat16)  # of the merged weights
    probes: int = bounded(at_least(1), 16)  # training conversations on which merged and unmerged model are compared
    max_kl: float = bounded(more_than(0), 0.5)  # nats a token that the merged model may be away from the unmerged one


@dataclass
class MergeDpo(Merge):
    NAME: ClassVar[str] = "merge_dpo"


@dataclass
class MergeHeal(Merge):
    NAME: ClassVar[str] = "merge_heal"


@dataclass
class MergePreference(Merge):
    NAME: ClassVar[str] = "merge_preference"


@dataclass
class MergeRl(Merge):
    NAME: ClassVar[str] = "merge_rl"
