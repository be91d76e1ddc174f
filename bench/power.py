"""What a set of n questions can tell: interval widths and chances of seeing a true difference, by our own statistics.

Needs   nothing
Run     python -m bench.power [simulations]
"""

import sys

import numpy as np

from stages.lib.evaluation.statistics import bootstrap_interval, paired_difference

BEFORE = 0.5
GAINS = (0.05, 0.10, 0.20)
SIZES = (50, 100, 200, 500)
RESAMPLES = 500
LOST = 0.055
"""Share of all questions that the second model loses, whatever it gains: tuning rarely gains alone."""


def outcomes(generator: np.random.Generator, n: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Right (1) and wrong (0) of two models on n questions: the second is right on `gain` more than the first."""
    drawn = generator.choice(4, size=n, p=[BEFORE - LOST, LOST, gain + LOST, 1 - BEFORE - gain - LOST])
    return (drawn <= 1).astype(float), (drawn % 2 == 0).astype(float)


def width(n: int, simulations: int) -> float:
    """Mean width of the 95 % interval of a share of one half."""
    generator = np.random.default_rng(n)
    widths = []
    for seed in range(simulations):
        values = generator.binomial(1, BEFORE, n).astype(float)
        cell = bootstrap_interval(values, np.ones(n), list(range(n)), RESAMPLES, seed)
        widths.append(cell["high"] - cell["low"])
    return float(np.mean(widths))


def power(n: int, gain: float, simulations: int) -> float:
    """Share of simulations in which the paired interval of the difference lies above zero."""
    generator = np.random.default_rng(n)
    seen = 0
    for seed in range(simulations):
        before, after = outcomes(generator, n, gain)
        cell = paired_difference((before, np.ones(n)), (after, np.ones(n)), list(range(n)), RESAMPLES, seed)
        seen += cell["low"] > 0
    return seen / simulations


if __name__ == "__main__":
    simulations = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    print(f"{simulations} simulations; the first model is right on {BEFORE:.0%}")
    print(
        f"{'n':>5}{'width':>8}"
        + "".join(f"{f'+{gain:.0%}':>8}" for gain in (0, *GAINS))
        + "   chance to see it, paired"
    )
    for n in SIZES:
        chances = [power(n, gain, simulations) for gain in (0, *GAINS)]
        print(f"{n:>5}{width(n, simulations):>8.2f}" + "".join(f"{chance:>8.0%}" for chance in chances))
