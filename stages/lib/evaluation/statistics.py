"""Figures with their uncertainty, and differences of figures on the same rows."""

from collections.abc import Callable, Hashable, Sequence
from math import comb, sqrt
from typing import Any

import numpy as np

Z = 1.959964
"""The standard normal's 97.5th percentile."""


def unchanged(ratio: np.ndarray) -> np.ndarray:
    """The transform of a mean."""
    return ratio


def bootstrap_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    groups: Sequence[Hashable],
    resamples: int,
    seed: int,
    transform: Callable[[np.ndarray], np.ndarray] = unchanged,
) -> dict[str, float]:
    """A ratio of sums with a 95 % percentile bootstrap interval over groups.

    A mean is the ratio with denominators of 1; a perplexity, the exponential of summed losses over summed tokens.
    Rows of one group, such as wordings of one fact, rise and fall together and are drawn together.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Returns value, low, high, n (rows) and groups. Raises ValueError for no rows.
    """
    draws = draw_groups(groups, resamples, seed)
    above, below = group_sums(numerators, groups), group_sums(denominators, groups)
    return summary(
        transform(above.sum() / below.sum()), transform((draws @ above) / (draws @ below)), len(numerators), len(above)
    )


def wilson_interval(hits: Sequence[float], groups: Sequence[Hashable]) -> dict[str, float]:
    """The share of rows that are 1.0, not 0.0, with Wilson's 95 % score interval over groups.

    A bootstrap of rows that are all right, or all wrong, says [1, 1]: as if the next row couldn't differ. Wilson's
    interval of n rows at 1 begins at n / (n + 3.84). The wordings of one fact are nearly one question, so n is the
    number of groups: the interval is rather too wide than too narrow.
    Sources: Wilson, JASA 22, 1927; Brown, Cai and DasGupta, Statistical Science 16, 2001, who recommend it for small n.

    Returns value, low, high, n (rows) and groups. Raises ValueError for no rows.
    """
    count = len(set(groups))
    if not count:
        raise ValueError("no rows to average")
    share = sum(hits) / len(hits)
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return {"value": rounded(share), "low": rounded(low), "high": rounded(high), "n": len(hits), "groups": count}


def paired_difference(
    before: tuple[Sequence[float], Sequence[float]],
    after: tuple[Sequence[float], Sequence[float]],
    groups: Sequence[Hashable],
    resamples: int,
    seed: int,
    transform: Callable[[np.ndarray], np.ndarray] = unchanged,
) -> dict[str, float]:
    """The figure of `after` less that of `before` on the same rows, with a 95 % paired bootstrap interval.

    Each side is numerators and denominators, row by row in the same order. Both are computed on the same draws of
    groups, so that what makes a row hard for both cancels out.

    Returns value, low, high, n, groups as bootstrap_interval does. Raises ValueError for no rows.
    """
    draws = draw_groups(groups, resamples, seed)
    sides = [(group_sums(above, groups), group_sums(below, groups)) for above, below in (before, after)]
    values = [transform(above.sum() / below.sum()) for above, below in sides]
    samples = [transform((draws @ above) / (draws @ below)) for above, below in sides]
    return summary(values[1] - values[0], samples[1] - samples[0], len(groups), len(sides[0][0]))


def mcnemar(before: Sequence[float], after: Sequence[float]) -> dict[str, float]:
    """Exact McNemar test of two series of right (1.0) and wrong (0.0) on the same rows.

    Returns gained (wrong to right), lost (right to wrong) and p, the two-sided binomial probability of a split at
    least as uneven if neither side were better. Source: McNemar, Psychometrika 12, 1947; exact form.
    """
    gained = sum(new > old for old, new in zip(before, after, strict=True))
    lost = sum(new < old for old, new in zip(before, after, strict=True))
    changed = gained + lost
    tail = sum(comb(changed, k) for k in range(min(gained, lost) + 1)) / 2**changed
    return {"gained": gained, "lost": lost, "p": round(min(1.0, 2 * tail), 4)}


def group_sums(values: Sequence[float], groups: Sequence[Hashable]) -> Any:
    """Sums by group, in the order in which groups first occur."""
    names = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    return np.bincount([names[group] for group in groups], weights=np.asarray(values, dtype=float))


def draw_groups(groups: Sequence[Hashable], resamples: int, seed: int) -> Any:
    """How often each group is drawn: (resamples, groups). Raises ValueError for no rows."""
    count = len(set(groups))
    if not count:
        raise ValueError("no rows to average")
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)


def summary(value: np.ndarray, samples: np.ndarray, rows: int, groups: int) -> dict[str, float]:
    """A figure as it is written."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return {
        "value": rounded(float(value)),
        "low": rounded(low),
        "high": rounded(high),
        "n": rows,
        "groups": groups,
    }


def rounded(value: float) -> float:
    """At most four decimals and six digits: what lies beyond changes with the order of additions in a batch."""
    return float(f"{round(float(value), 4):.6g}")
