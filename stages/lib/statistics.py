"""Figures with their uncertainty."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np


def bootstrap_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    groups: Sequence[Hashable],
    resamples: int,
    seed: int,
    transform: Callable[[Any], Any] = lambda ratio: ratio,
) -> dict[str, float]:
    """A ratio of sums with a 95 % percentile bootstrap interval over groups.

    A mean is the ratio with denominators of 1; a perplexity, the exponential of summed losses over summed tokens.
    Rows of one group, such as wordings of one fact, rise and fall together and are drawn together.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Returns value, low, high, n (rows) and groups. Raises ValueError for no rows.
    """
    if not numerators:
        raise ValueError("no rows to average")
    names = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    index = np.array([names[group] for group in groups])
    above = np.bincount(index, weights=np.asarray(numerators, dtype=float))
    below = np.bincount(index, weights=np.asarray(denominators, dtype=float))
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    samples = transform((draws @ above) / (draws @ below))
    low, high = np.percentile(samples, [2.5, 97.5])
    value = transform(above.sum() / below.sum())
    return {
        "value": round(float(value), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "n": len(numerators),
        "groups": len(names),
    }
