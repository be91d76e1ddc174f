"""The settings of a sweep, in a module of their own.

Launchers that send a job to another process (submitit) pickle what `graft sweep` defines by value, and a
dataclass that was pickled by value has no fields.
"""

from dataclasses import dataclass, field

from stages.lib.schema.config import Config


@dataclass
class Sweep:
    """Settings of a sweep; they change none of its points."""

    metric: str = "dpo.seen.key_exact"  # model.set.figure of metrics/eval.json: what a search optimises and best means
    smaller_is_better: bool = False
    queue: int = 0  # workers of DVC's queue that run the points; 0: each Hydra job runs its own
    hopeless: float = 0.0  # stop a point whose SFT loss ends above so many times the best one's; 0: never


@dataclass
class SweepConfig(Config):
    """The primary config with the sweep's own settings beside the stages' sections."""

    sweep: Sweep = field(default_factory=Sweep)
