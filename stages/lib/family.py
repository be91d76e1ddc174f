"""The models of one run, in the order of the chain."""

STARTED_FROM = {"sft": "base", "dpo": "sft", "orpo": "base", "rl": "sft"}
"""Each trained model and the one that its training started from."""
NAMES = ["base", *STARTED_FROM]
TUNED = "dpo"
"""The model that the pipeline is for. ORPO's and RL's, where they ran, are alternatives beside it."""
