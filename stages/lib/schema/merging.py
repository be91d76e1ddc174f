"""The sections of the merges: apart from training's, so that an edit here trains nothing again."""

from dataclasses import dataclass

from stages.lib.every_stage.errors import require
from stages.lib.schema.choices import Dtype, MergeBase


@dataclass
class Merge:
    # Where the adapter is added: the weights before quantisation, or as training saw them. The first loses what the
    # adapter learned against quantised weights; the second loses it when something quantises the result again.
    base: MergeBase = MergeBase.original
    dtype: Dtype = Dtype.bfloat16  # of the merged weights
    probes: int = 16  # training conversations on which merged and unmerged model are compared
    max_kl: float = 0.5  # nats a token that the merged model may be away from the unmerged one

    def __post_init__(self) -> None:
        self.check("merge")

    def check(self, section: str) -> None:
        """Raise UserError for a value that can't merge."""
        dtypes = (Dtype.bfloat16, Dtype.float16)
        require(self.dtype in dtypes, f"{section}.dtype", self.dtype.value, "bfloat16 or float16")
        require(self.probes > 0, f"{section}.probes", self.probes, "1 or more")
        require(self.max_kl > 0, f"{section}.max_kl", self.max_kl, "more than 0")


@dataclass
class MergeDpo(Merge):
    def __post_init__(self) -> None:
        self.check("merge_dpo")


@dataclass
class MergeOrpo(Merge):
    def __post_init__(self) -> None:
        self.check("merge_orpo")
