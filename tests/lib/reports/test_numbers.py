"""A difference is marked by what is good, not by its sign."""

import pytest

from stages.lib.reports.numbers import figure, judgement, marked


def cell(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": 90, "groups": 30}


@pytest.mark.parametrize(
    ("split", "name", "up"),
    [
        ("seen", "key_exact", 1),
        ("unanswerable", "refusal_rate", 1),
        ("preferences", "accuracy", 1),
        ("seen", "over_refusal_rate", -1),
        ("control_ko", "perplexity", -1),
        ("seen", "repetition", -1),
        ("seen", "characters", 0),
        ("unseen", "over_refusal_rate", 0),
    ],
)
def test_more_is_better_or_worse_by_the_figure(split: str, name: str, up: int) -> None:
    assert judgement(cell(0.3, 0.1, 0.5), split, name) == up
    assert judgement(cell(-0.3, -0.5, -0.1), split, name) == -up
    assert judgement(cell(0.3, -0.1, 0.7), split, name) == 0
    assert judgement(cell(0.0, 0.0, 0.0), split, name) == 0
    assert judgement(None, split, name) == 0


def test_a_lower_perplexity_points_up_and_chance_points_nowhere() -> None:
    assert marked(cell(-4.0, -6.0, -2.0), "control_en", "perplexity") == "-4.00 [-6.00, -2.00] ▲"
    assert marked(cell(0.2, 0.1, 0.3), "seen", "over_refusal_rate") == "+0.20 [+0.10, +0.30] ▼"
    assert marked(cell(0.2, -0.1, 0.3), "seen", "key_exact") == "+0.20 [-0.10, +0.30]"
    assert marked(None, "seen", "key_exact") == figure(None) == "-"
