"""Intervals that cover what they claim to cover."""

import numpy as np
import pytest

from stages.lib.statistics import bootstrap_interval


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
