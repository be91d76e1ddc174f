"""Choosing among a sweep's points says how far the best stands out."""

from typing import Any

import pytest

from stages.lib.every_stage.errors import UserError
from tools.promote import choose, distinction, read_sweep


def row(name: str, score: float | None, half: float = 0.1) -> dict[str, Any]:
    interval = {} if score is None else {"score": score, "low": score - half, "high": score + half}
    return {"name": name, "overrides": {"sft.lora.r": name.split("-")[0]}, "status": "done", "reason": "", **interval}


def test_the_best_stands_out_only_where_intervals_do_not_meet(capsys):
    assert choose([row("8-a", 0.9), row("4-b", 0.6), row("2-c", None)], "")["name"] == "8-a"
    assert "no interval of the other 1 reaches its own" in capsys.readouterr().out
    text = distinction([row("8-a", 0.9), row("4-b", 0.75), row("2-c", 0.1)])
    assert "NOT distinguishable from 1 of the other 2" in text
    assert "sft.lora.r=4: 0.75 [0.65, 0.85]" in text and "sft.lora.r=2" not in text


def test_smaller_is_better_compares_the_same_way():
    assert "NOT distinguishable" in distinction([row("8-a", 20.0, 3), row("4-b", 24.0, 3)])
    assert "reaches its own" in distinction([row("8-a", 20.0, 1), row("4-b", 24.0, 1)])


def test_a_name_must_fit_one_point_with_a_score():
    rows = [row("8-a", 0.9), row("8-b", 0.8), row("2-c", None)]
    assert choose(rows, "8-b")["name"] == "8-b"
    with pytest.raises(UserError, match=r"'8': found 2 points that begin so, needed one of:\n  8-a\n  8-b"):
        choose(rows, "8")
    with pytest.raises(UserError, match="'2-c': found 0 points"):
        choose(rows, "2-c")
    with pytest.raises(UserError, match="no point of 1 has a score"):
        choose(rows[2:], "")


def test_without_a_sweep_there_is_nothing_to_promote(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no finished sweep; run `graft sweep"):
        read_sweep(None)
