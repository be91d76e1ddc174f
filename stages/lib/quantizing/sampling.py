"""How the next token of an answer to people is drawn, in a chat and by Ollama."""

from stages.lib.family import ALTERNATIVES

TEMPERATURES = {"base": 0.7, "sft": 0.7, "dpo": 0.5, **dict.fromkeys(ALTERNATIVES, 0.5)}
"""By model: one tuned on preferences is surer of its words, and is let to be."""
TOP_P = 0.9
