"""Figures and differences from rows, as predictions.jsonl holds them."""

import math

import pytest

from stages.lib.evaluation.figures import differences, figures_of, known_facts


def row(name, right, nats, split="seen", fact=None):
    return {
        "id": name,
        "fact_id": fact or name,
        "split": split,
        "scores": {"key_exact": right},
        "likelihood": {"nats": nats, "tokens": 10, "characters": 20},
    }


def test_means_and_ratios_by_split():
    rows = [row("a", 1.0, 10.0), row("b", 0.0, 30.0), row("c", 1.0, 5.0, split="unseen")]
    figures = figures_of(rows, 50, 1)
    assert figures["seen"]["key_exact"]["value"] == 0.5
    assert figures["seen"]["perplexity"]["value"] == pytest.approx(math.exp(2), abs=1e-4)
    assert figures["seen"]["bits_per_character"]["value"] == pytest.approx(1 / math.log(2), abs=1e-4)
    assert figures["unseen"]["key_exact"] == {"value": 1, "low": 0.2065, "high": 1, "n": 1, "groups": 1}


def test_differences_are_over_common_rows_and_narrower_than_either_interval():
    before = [row(str(i), float(i % 2), 10.0) for i in range(60)]
    after = [row(str(i), float(i % 2 or i % 10 == 0), 9.0) for i in range(10, 60)]
    change = differences(before, after, 500, 1)["seen"]["key_exact"]
    assert change["n"] == 50
    assert change["value"] == pytest.approx(0.1)
    alone = figures_of(after, 500, 1)["seen"]["key_exact"]
    assert change["high"] - change["low"] < alone["high"] - alone["low"]


def test_a_row_without_a_score_counts_for_the_others_alone():
    rows = [row("a", 1.0, 1.0), {**row("b", 0.0, 1.0), "scores": {"refusal_rate": 1.0}}]
    figures = figures_of(rows, 20, 1)["seen"]
    assert (figures["key_exact"]["n"], figures["refusal_rate"]["n"], figures["perplexity"]["n"]) == (1, 1, 2)


def test_a_share_of_all_or_none_has_an_interval_and_a_mean_keeps_its_own():
    rows = [{**row(f"{n}-{w}", 1.0, 5.0, fact=f"f{n}"), "scores": {"key_exact": 1.0, "refusal_rate": 0.0, "chrf": 0.4}}
            for n in range(30) for w in range(3)]  # fmt: skip
    figures = figures_of(rows, 50, 1)["seen"]
    assert figures["key_exact"] == {"value": 1, "low": 0.8865, "high": 1, "n": 90, "groups": 30}
    assert figures["refusal_rate"] == {"value": 0, "low": 0, "high": 0.1135, "n": 90, "groups": 30}
    assert (figures["chrf"]["low"], figures["chrf"]["high"]) == (0.4, 0.4)


def test_a_fact_is_known_if_most_of_its_wordings_are_answered_right():
    right = {"all": (1, 1, 1), "most": (1, 0, 1), "one": (0, 1, 0), "half": (1, 0)}
    rows = [
        row(f"{fact}-{n}", float(hit), 1.0, fact=fact) for fact, hits in right.items() for n, hit in enumerate(hits)
    ]
    rows.append(row("other", 1.0, 1.0, split="unseen"))
    assert known_facts(rows) == {"known": 2, "asked": 4}
    assert known_facts([]) == {"known": 0, "asked": 0}
