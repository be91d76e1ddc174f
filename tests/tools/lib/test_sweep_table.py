"""Tables and plots hold every point, with or without a score."""

import csv
from pathlib import Path
from typing import Any

from tools.lib.sweep_table import FIGURES, costs, draw, table, values, write_csv


def row(r: str, rate: str, score: float | None, **more: Any) -> dict[str, Any]:
    figures = {}
    if score is not None:
        figures = {"score": score, "low": score - 0.1, "high": score + 0.1, "seconds": 10.0 * score}
        for name in FIGURES:
            figures |= {name: score, f"{name}_low": score - 0.1, f"{name}_high": score + 0.1}
    base = {"name": f"{r},{rate}", "overrides": {"sft.lora.r": r, "rate": rate}, "status": "done", "reason": ""}
    return {**base, **figures, **more}


ROWS = [
    row("8", "1e-4", 0.8, peak_memory_mib=1200, trained_parameters=12288),
    row("16", "1e-4", 0.7),
    row("8", "0.01", 0.5),
    row("16", "0.01", None, status="failed", reason="sft: 학습할 행이 없습니다"),
]


def test_the_table_shows_every_point_and_reasons_below():
    text = table(ROWS, "dpo.seen.key_exact")
    lines = text.splitlines()
    assert lines[0].split()[:4] == ["point", "status", "key", "exact"]
    assert "0.80 [0.70, 0.90]" in lines[1] and "1,200" in lines[1] and "12,288" in lines[1]
    assert lines[-1] == "failed: sft.lora.r=16 rate=0.01: sft: 학습할 행이 없습니다"
    assert "dpo.control.bits" in table(ROWS, "dpo.control.bits").splitlines()[0]


def test_csv_has_a_column_for_each_key_and_empty_cells_without_a_value(tmp_path):
    write_csv(tmp_path / "table.csv", ROWS)
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["sft.lora.r"] for line in lines] == ["8", "16", "8", "16"]
    assert (lines[0]["score"], lines[3]["score"], lines[3]["reason"]) == ("0.8", "", "sft: 학습할 행이 없습니다")


def test_values_are_ordered_by_size():
    assert values(ROWS, "sft.lora.r") == ["8", "16"]
    assert values(ROWS, "rate") == ["1e-4", "0.01"]


def test_plots_show_the_points_and_equal_rows_give_equal_bytes(tmp_path):
    rows = [*ROWS[:3], row("16", "한글", 0.4)]
    places = [tmp_path / "a", tmp_path / "b"]
    for place in places:
        place.mkdir()
        assert [path.name for path in draw(place, rows, "dpo.seen.key_exact")] == ["cost.svg", "heat_map.svg"]
    heat = (places[0] / "heat_map.svg").read_text(encoding="utf-8")
    assert all(word in heat for word in ("sft.lora.r", "rate", "0.80", "[0.70, 0.90]", "한글"))
    for name in ("cost.svg", "heat_map.svg"):
        assert (places[0] / name).read_bytes() == (places[1] / name).read_bytes()


def test_no_plot_without_a_score(tmp_path):
    assert draw(tmp_path, ROWS[3:], "dpo.seen.key_exact") == []
    assert list(Path(tmp_path).iterdir()) == []


def test_costs_are_of_the_stages_that_ran():
    stages = {
        "sft": {"seconds": 3.0, "process_seconds": 5.0, "peak_memory_mib": 500},
        "dpo": {"seconds": 1.5, "process_seconds": 2.5, "peak_memory_mib": 700},
    }
    found = costs({"stages": stages, "wall_seconds": 9.0})
    assert found == {"seconds": 4.5, "peak_memory_mib": 700, "wall_seconds": 9.0, "overhead_seconds": 1.5}
    stages["dpo"]["gpu_peak_memory_mib"] = 9000
    assert costs({"stages": stages}) == {"seconds": 4.5, "peak_memory_mib": 9000}
    assert costs({"stages": {}}) == {}
