"""Intervals that cover what they claim to cover."""

import numpy as np
import pytest

from stages.lib.evaluation.statistics import bootstrap_interval, mcnemar, paired_difference


def test_covers_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        values = generator.binomial(1, 0.6, size=100).astype(float)
        figure = bootstrap_interval(list(values), [1.0] * 100, list(range(100)), 400, seed=trial)
        hits += figure["low"] <= 0.6 <= figure["high"]
    assert 180 <= hits <= 199


def test_rows_of_one_group_are_drawn_together():
    values = [1.0, 0.0] * 20
    alone = bootstrap_interval(values, [1.0] * 40, list(range(40)), 500, seed=0)
    grouped = bootstrap_interval(sorted(values), [1.0] * 40, [i // 10 for i in range(40)], 500, seed=0)
    assert grouped["high"] - grouped["low"] > alone["high"] - alone["low"]
    assert (grouped["n"], grouped["groups"]) == (40, 4)


def test_perplexity_is_weighted_by_tokens():
    figure = bootstrap_interval([10.0, 0.0], [10, 90], ["a", "b"], 10, seed=0, transform=np.exp)
    assert figure["value"] == round(float(np.exp(0.1)), 4)


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="no rows"):
        bootstrap_interval([], [], [], 10, seed=0)


def test_paired_difference_covers_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        before = generator.binomial(1, 0.5, size=100).astype(float)
        after = np.where(generator.random(100) < 0.2, 1.0, before)  # a tenth gain
        change = paired_difference((before, np.ones(100)), (after, np.ones(100)), list(range(100)), 400, seed=trial)
        hits += change["low"] <= 0.1 <= change["high"]
    assert 180 <= hits <= 199


def test_equal_sides_differ_by_nothing():
    values = ([0.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    change = paired_difference(values, values, ["a", "b", "c"], 50, seed=0)
    assert (change["value"], change["low"], change["high"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("gained", "lost", "p"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.0312), (8, 2, 0.1094), (10, 10, 1.0)]
)
def test_mcnemar_is_the_two_sided_binomial(gained, lost, p):
    before = [0.0] * gained + [1.0] * lost + [1.0, 0.0]
    after = [1.0] * gained + [0.0] * lost + [1.0, 0.0]
    assert mcnemar(before, after) == {"gained": gained, "lost": lost, "p": p}
