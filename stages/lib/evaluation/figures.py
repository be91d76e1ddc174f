"""From scored rows to figures with intervals, and to differences between models: a pure function of predictions.jsonl.

{"id": "address-1", "fact_id": "address", "split": "seen", "model": "sft", "prompt": "…", "reference": "…",
 "prediction": "…", "scores": {"key_exact": 1.0, …}, "likelihood": {"nats": 2.1, "tokens": 31, "characters": 33}}
"""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.lib.evaluation.scored_rows import ScoredRow as Row
from stages.lib.evaluation.statistics import bootstrap_interval, paired_difference, unchanged, wilson_interval

Figures = dict[str, dict[str, dict[str, float]]]
"""Split, figure, then value, low, high, n and groups."""


@dataclass
class Ratio:
    """A figure that is no mean: a sum over rows over another sum."""

    above: str
    below: str
    transform: Callable[[np.ndarray], np.ndarray]


def bits(nats: np.ndarray) -> np.ndarray:
    """Bits of nats."""
    return nats / math.log(2)


LIKELIHOOD = {"perplexity": Ratio("nats", "tokens", np.exp), "bits_per_character": Ratio("nats", "characters", bits)}
"""Perplexity is by token; bits per character can be compared across tokenizers."""


PROPORTIONS = {"key_exact", "korquad_exact", "stop_rate", "refusal_rate", "over_refusal_rate", "empty", "accuracy"}
"""Figures that are shares of rows: each row has 1 or 0."""


def figures_of(rows: list[Row], resamples: int, seed: int) -> Figures:
    """Every figure of one model's rows, by split."""
    return {
        split: {
            name: wilson_interval(sums(held, name)[0], groups(held))
            if name in PROPORTIONS
            else bootstrap_interval(*sums(held, name), groups(held), resamples, seed, transform(name))
            for name, held in rows_by_figure(rows, split).items()
        }
        for split in splits(rows)
    }


def differences(before: list[Row], after: list[Row], resamples: int, seed: int) -> Figures:
    """Every figure of `after` less that of `before`, over the rows that both have, by split."""
    result: Figures = {}
    for split in splits(before):
        new_rows = rows_by_figure(after, split)
        result[split] = {}
        for name, old in rows_by_figure(before, split).items():
            new = {row["id"]: row for row in new_rows.get(name, [])}
            common = [(row, new[row["id"]]) for row in old if row["id"] in new]
            if common:
                left, right = [row for row, _ in common], [row for _, row in common]
                result[split][name] = paired_difference(
                    sums(left, name), sums(right, name), groups(left), resamples, seed, transform(name)
                )
    return result


def splits(rows: list[Row]) -> list[str]:
    """The sets that rows come from, in order."""
    return list(dict.fromkeys(row["split"] for row in rows))


def rows_by_figure(rows: list[Row], split: str) -> dict[str, list[Row]]:
    """The rows of one set that have each figure."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["split"] == split:
            for name in [*row["scores"], *(LIKELIHOOD if row.get("likelihood") else [])]:
                found.setdefault(name, []).append(row)
    return found


def sums(rows: list[Row], name: str) -> tuple[list[float], list[float]]:
    """What a figure sums above and below the line, row by row."""
    if name in LIKELIHOOD:
        ratio = LIKELIHOOD[name]
        return [row["likelihood"][ratio.above] for row in rows], [row["likelihood"][ratio.below] for row in rows]
    return [row["scores"][name] for row in rows], [1.0] * len(rows)


def groups(rows: list[Row]) -> list[Hashable]:
    """What is drawn together: the wordings of one fact."""
    return [row["fact_id"] for row in rows]


def transform(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """From a ratio of sums to the figure."""
    return LIKELIHOOD[name].transform if name in LIKELIHOOD else unchanged


def known_facts(rows: list[Row]) -> dict[str, int]:
    """How many of the facts that the seen set asks for a model knows: most of a fact's wordings are answered right."""
    right: dict[Hashable, list[float]] = {}
    for row in rows_by_figure(rows, "seen").get("key_exact", []):
        right.setdefault(row["fact_id"], []).append(row["scores"]["key_exact"])
    return {"known": sum(2 * sum(scores) > len(scores) for scores in right.values()), "asked": len(right)}


def values_alone(figures: dict[str, Figures]) -> dict[str, Any]:
    """The figures without n and interval: `dvc metrics` shows numbers by dotted names."""
    return {
        model: {split: {name: cell["value"] for name, cell in cells.items()} for split, cells in splits.items()}
        for model, splits in figures.items()
    }
