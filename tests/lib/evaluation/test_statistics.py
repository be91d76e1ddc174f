"""Intervals that cover what they claim to cover."""

import numpy as np
import pytest

from stages.lib.evaluation.statistics import bootstrap_interval, mcnemar, paired_difference, wilson_interval


def test_covers_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        values = generator.binomial(1, 0.6, size=100).astype(float)
        figure = bootstrap_interval(list(values), [1.0] * 100, list(range(100)), 400, seed=trial)
        hits += figure["low"] <= 0.6 <= figure["high"]
    assert 180 <= hits <= 199


def test_wilsons_interval_is_the_published_one():
    """Newcombe, Statistics in Medicine 17, 1998, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for hits, of, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611),
                                (1, 29, 0.0061, 0.1718)):  # fmt: skip
        found = wilson_interval([1.0] * hits + [0.0] * (of - hits), range(of))
        assert (found["low"], found["high"]) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    with pytest.raises(ValueError, match="no rows"):
        wilson_interval([], [])


def test_wilsons_interval_covers_shares_near_one_where_the_bootstrap_doesnt():
    generator = np.random.default_rng(3)
    hits, missed = 0, 0
    for trial in range(200):
        values = list(generator.binomial(1, 0.97, size=40).astype(float))
        found = wilson_interval(values, range(40))
        hits += found["low"] <= 0.97 <= found["high"]
        other = bootstrap_interval(values, [1.0] * 40, list(range(40)), 400, seed=trial)
        missed += not other["low"] <= 0.97 <= other["high"]
    assert hits >= 180 and missed > 40


def test_wilsons_interval_counts_facts_and_not_wordings():
    wordings = wilson_interval([1.0] * 90, [n // 3 for n in range(90)])
    assert (wordings["low"], wordings["n"], wordings["groups"]) == (0.8865, 90, 30)


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
