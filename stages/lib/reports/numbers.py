"""Figures as people read them: a value with its interval, and whether a difference is for the better."""

from typing import Any, TypedDict

Cell = dict[str, float]
Sets = dict[str, dict[str, Cell]]
"""Set, figure, then what the figure is: value, low, high, n and groups."""


class Detail(TypedDict):
    """metrics/eval_detail.json, as evaluate writes it."""

    models: dict[str, Sets]
    differences: dict[str, Sets]  # to the base
    steps: dict[str, Sets]  # to the model that each started from
    facts: dict[str, dict[str, int]]
    demo: dict[str, Any]
    settings: dict[str, Any]
    signatures: dict[str, str]
    sets_sha256: dict[str, str]
    weights_sha256: dict[str, str]
    chat_template_sha256: str
    tokenizer_sha256: str
    versions: dict[str, str]
    started_from: dict[str, str]  # what the model beside the chain started from


HIGHER = {"key_exact", "key_recall", "chrf", "bleu", "rouge_l", "korquad_exact", "korquad_f1", "bertscore",
          "stop_rate", "refusal_rate", "accuracy", "margin"}  # fmt: skip
"""Figures of which more is better."""
LOWER = {"over_refusal_rate", "perplexity", "bits_per_character", "empty", "repetition"}
"""Figures of which less is better. What is in neither, such as the length of answers, is neither good nor bad."""
MARKS = "▲ better and ▼ worse beyond chance: the 95 % interval of the paired difference leaves 0 out."


def figure(cell: Cell | None) -> str:
    """One figure with its interval, where it has one, such as 0.62 [0.50, 0.73]."""
    if cell is None:
        return "-"
    if "low" not in cell:
        return f"{cell['value']:.2f}"
    return f"{cell['value']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]"


def counted(cell: Cell | None) -> str:
    """A figure with its interval and its n, such as 0.62 [0.50, 0.73], n 40."""
    return "-" if cell is None else f"{figure(cell)}, n {cell['n']}"


def signed(cell: Cell | None) -> str:
    """A difference with its interval, such as +0.62 [+0.50, +0.73]."""
    if cell is None:
        return "-"
    return f"{cell['value']:+.2f} [{cell['low']:+.2f}, {cell['high']:+.2f}]"


def effect(split: str, name: str) -> int:
    """1 where more of a figure is better, -1 where less is, 0 where neither is.

    Of facts that training never saw a refusal is as honest as an answer is lucky.
    """
    if name == "over_refusal_rate" and split != "seen":
        return 0
    return (name in HIGHER) - (name in LOWER)


def judgement(change: Cell | None, split: str, name: str) -> int:
    """1 for a difference that is better beyond chance, -1 for one that is worse, 0 for what may be chance."""
    if change is None or change["low"] <= 0 <= change["high"]:
        return 0
    return effect(split, name) * (1 if change["low"] > 0 else -1)


def marked(change: Cell | None, split: str, name: str) -> str:
    """A difference with its interval, and ▲ if it is better or ▼ if it is worse, whatever its sign."""
    return signed(change) + ("", " ▲", " ▼")[judgement(change, split, name)]
