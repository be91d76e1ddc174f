"""The models of one run, in the order of the chain."""

STARTED_FROM = {"sft": "base", "dpo": "sft", "orpo": "base"}
"""Each trained model and the one that its training started from."""
NAMES = ["base", *STARTED_FROM]
TUNED = "dpo"
"""The model that the pipeline is for. ORPO, where it ran, is an alternative beside it."""
