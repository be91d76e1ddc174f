"""The models of one run, in the order of the chain."""

from collections.abc import Mapping
from typing import Any

from stages.lib.schema.choices import Algorithm

STARTED_FROM = {"sft": "base", "dpo": "sft"}
"""Each model of the chain and the one that its training started from."""
BESIDE = [each.value for each in Algorithm]
"""What the model of the stage preference may be called: by its method. One at a time, an alternative beside DPO's."""
RL = "rl"
"""The model of reinforcement learning, which starts from sft."""
SMALLER = ["pruned", "healed"]
"""The models of prune and heal: with fewer layers than the one that they were made of."""
ALTERNATIVES = [*BESIDE, RL, *SMALLER]
NAMES = ["base", *STARTED_FROM, *ALTERNATIVES]
TUNED = "dpo"
"""The model that the pipeline is for."""


def made_beside(lineage: Mapping[str, Any]) -> tuple[str, str]:
    """The name of the merged model of stage preference, and of the one it started from, by its lineage."""
    arguments = lineage["adapter"]["arguments"]
    return arguments["algorithm"], arguments["start"]
