"""The points of a sweep side by side: what each scored and what it cost, in the terminal, as CSV and as plots."""

from __future__ import annotations

import csv
import json
import math
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.errors import UserError
from stages.lib.reports.numbers import Detail
from tools.lib.points import experiments, git

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DETAIL = "metrics/eval_detail.json"
TRAINED = ["models/sft", "models/dpo"]
FIGURES = {
    "key_exact": ("seen", "key_exact"),
    "refusal_rate": ("unanswerable", "refusal_rate"),
    "perplexity_en": ("control_en", "perplexity"),
    "perplexity_ko": ("control_ko", "perplexity"),
    "preference_accuracy": ("preferences", "accuracy"),
}
"""Column: set and figure of the evaluation, of the model that the sweep's metric names."""

COLUMNS = [
    "name",
    "status",
    "score",
    "low",
    "high",
    *[f"{name}{end}" for name in FIGURES for end in ("", "_low", "_high")],
    "seconds",
    "wall_seconds",
    "overhead_seconds",
    "peak_memory_mib",
    "trained_parameters",
    "gpu",
    "reason",
]


def cell(detail: Detail, metric: str) -> dict[str, float] | None:
    """A figure with its interval by its dotted name, such as dpo.seen.key_exact."""
    found: Any = detail["models"]
    for name in metric.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) and "value" in found else None


def names_of(detail: Detail) -> set[str]:
    """The dotted names of all figures."""
    models = detail["models"]
    return {f"{model}.{split}.{name}" for model in models for split in models[model] for name in models[model][split]}


def detail_of(commit: str) -> Detail:
    return json.loads(git("show", f"{commit}:{DETAIL}"))


def score_of(outcome: dict[str, Any], metric: str) -> float | None:
    """The metric of a point that ran; None for one that did not or whose evaluation lacks it."""
    commit = experiments().get(outcome.get("digest", ""))
    figure = cell(detail_of(commit), metric) if commit else None
    return figure["value"] if figure else None


def compare(outcomes: list[dict[str, Any]], metric: str, smaller_is_better: bool) -> list[dict[str, Any]]:
    """One row a point, the best first and points without a score last; every outcome has its row.

    Among equal scores the one that trains fewer parameters is better, then the faster. Raises UserError for a metric
    that no evaluation has.
    """
    commits = experiments()
    rows = []
    known: set[str] = set()
    for outcome in {outcome["name"]: outcome for outcome in outcomes}.values():
        row = {
            "name": outcome["name"],
            "overrides": dict(override.lstrip("+").split("=", 1) for override in outcome["overrides"]),
            "status": outcome["status"],
            "reason": outcome.get("reason", ""),
            "gpu": outcome.get("gpu", ""),
            "score": None,
            **costs(outcome),
        }
        if commit := commits.get(outcome.get("digest", "")):
            detail = detail_of(commit)
            known |= {
                f"{m}.{s}.{n}" for m, sets in detail["models"].items() for s, names in sets.items() for n in names
            }
            row |= interval("score", cell(detail, metric)) | {"trained_parameters": trained_parameters(commit)}
            row |= {"low": row.pop("score_low", None), "high": row.pop("score_high", None)}
            model = metric.split(".")[0]
            for column, (split, name) in FIGURES.items():
                row |= interval(column, cell(detail, f"{model}.{split}.{name}"))
        rows.append(row)
    if known and metric not in known:
        raise UserError(f"sweep.metric: found {metric!r}, needed one of {', '.join(sorted(known))}")
    sign = 1 if smaller_is_better else -1

    def rank(row: dict[str, Any]) -> tuple[float, ...]:
        score = row.get("score")
        cost = (row.get("trained_parameters") or 0, row.get("seconds") or 0)
        return (math.inf, *cost) if score is None else (sign * score, *cost)

    return sorted(rows, key=rank)


def interval(column: str, figure: dict[str, float] | None) -> dict[str, float]:
    """A figure as columns: value, low end and high end of its 95 % interval."""
    return {column: figure["value"], f"{column}_low": figure["low"], f"{column}_high": figure["high"]} if figure else {}


def costs(outcome: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the stages that this point itself ran, and the largest memory peak of any (MiB; a GPU's if used).

    wall_seconds is the point once its data are prepared, waiting for a GPU included; overhead_seconds what of it passed
    outside the stages' processes: cloning, DVC, Git, hashing, linking, the config stage.
    """
    stages = outcome.get("stages", {}).values()
    if not stages:
        return {}
    peaks = [stage.get("gpu_peak_memory_mib") or stage["peak_memory_mib"] for stage in stages]
    seconds = round(sum(stage["seconds"] for stage in stages), 1)
    found = {"seconds": seconds, "peak_memory_mib": max(peaks)}
    if (wall := outcome.get("wall_seconds")) is not None:
        inside = sum(stage["process_seconds"] for stage in stages)
        found |= {"wall_seconds": wall, "overhead_seconds": round(wall - inside, 1)}
    return found


def trained_parameters(commit: str) -> int:
    """How many numbers SFT and DPO trained, from the shapes in the headers of what they saved.

    Format: 8 bytes little-endian length, then so many bytes of JSON
    {"name": {"dtype": "F32", "shape": [4, 32], …}, "__metadata__": {…}}; source: safetensors' README.
    """
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(".", rev=commit)
    count = 0
    for directory in TRAINED:
        for path in files.find(directory):
            if path.endswith(".safetensors"):
                with files.open(path) as file:
                    header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
                count += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return count


def varied(rows: list[dict[str, Any]]) -> list[str]:
    """The overridden keys, in the order they were given."""
    return list(dict.fromkeys(key for row in rows for key in row["overrides"]))


def label(row: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in row["overrides"].items()) or "the workspace"


def figure_text(row: dict[str, Any], column: str) -> str:
    """0.62 [0.50, 0.73], or - without a value."""
    if row.get(column) is None:
        return "-"
    low, high = ("low", "high") if column == "score" else (f"{column}_low", f"{column}_high")
    return f"{row[column]:.2f} [{row[low]:.2f}, {row[high]:.2f}]"


def table(rows: list[dict[str, Any]], metric: str) -> str:
    """The rows as aligned text; under them, each point that failed or was stopped with its reason."""
    columns = list(FIGURES) if any(metric.endswith(f"{s}.{n}") for s, n in FIGURES.values()) else ["score", *FIGURES]
    head = ["point", "status", *[metric if name == "score" else name.replace("_", " ") for name in columns]]
    lines = [[*head, "seconds", "peak MiB", "trained"]]
    for row in rows:
        cost = [row.get("seconds"), row.get("peak_memory_mib"), row.get("trained_parameters")]
        figures = [figure_text(row, name) for name in columns]
        lines.append([label(row), row["status"], *figures, *("-" if value is None else f"{value:,}" for value in cost)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ["  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    reasons = [f"{row['status']}: {label(row)}: {row['reason']}" for row in rows if row["reason"]]
    return "\n".join([*text, *([""] if reasons else []), *reasons])


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """One row a point: a column for each overridden key, then COLUMNS; empty where there is no value."""
    keys = varied(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*keys, *COLUMNS])
        for row in rows:
            writer.writerow([*(row["overrides"].get(key, "") for key in keys), *(row.get(name) for name in COLUMNS)])


def draw(place: Path, rows: list[dict[str, Any]], metric: str) -> list[Path]:
    """Write cost.svg (score against seconds) and, for two keys with several values each, heat_map.svg.

    Text stays text in the SVG, so the reader's fonts show Hangul. Returns the files written: none if nothing scored.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "graft"})
    import matplotlib.pyplot as plt

    scored = [row for row in rows if row.get("score") is not None]
    written = []
    if costly := [row for row in scored if row.get("seconds") is not None]:
        figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        middle = (min(row["seconds"] for row in costly) + max(row["seconds"] for row in costly)) / 2
        for row in costly:
            errors = [[row["score"] - row["low"]], [row["high"] - row["score"]]]
            axes.errorbar(row["seconds"], row["score"], yerr=errors, fmt="o", capsize=3)
            left, at = row["seconds"] > middle, (row["seconds"], row["score"])
            style: dict[str, Any] = {"xytext": (-6 if left else 6, 3), "ha": "right" if left else "left", "size": 7}
            axes.annotate(label(row), at, textcoords="offset points", **style)
        absent = len(scored) - len(costly)
        note = f" (not drawn, since the cache had them: {absent})" if absent else ""
        axes.set(xlabel=f"seconds of the stages that the point ran{note}", ylabel=f"{metric}, 95 % interval")
        axes.margins(x=0.25)
        written.append(save(figure, place / "cost.svg"))
    keys = varied(scored)
    if len(keys) == 2:
        across, down = (values(scored, key) for key in keys)
        if len(across) > 1 and len(down) > 1:
            figure, axes = plt.subplots(figsize=(1.8 + 1.5 * len(across), 1.5 + 0.9 * len(down)), layout="constrained")
            grid = [[math.nan] * len(across) for _ in down]
            for row in scored:
                x, y = across.index(row["overrides"].get(keys[0], "-")), down.index(row["overrides"].get(keys[1], "-"))
                grid[y][x] = row["score"]
                text = figure_text(row, "score").replace(" ", "\n", 1)
                box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
                axes.text(x, y, text, ha="center", va="center", size=8, bbox=box)
            figure.colorbar(axes.imshow(grid, aspect="auto", cmap="viridis"), label=metric)
            axes.set_xticks(range(len(across)), across)
            axes.set_yticks(range(len(down)), down)
            axes.set(xlabel=keys[0], ylabel=keys[1])
            written.append(save(figure, place / "heat_map.svg"))
    return written


def save(figure: Figure, path: Path) -> Path:
    """Save and close a figure; without a date, so equal figures have equal bytes."""
    import matplotlib.pyplot as plt

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # measured alone with another font, not drawn
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def values(rows: list[dict[str, Any]], key: str) -> list[str]:
    """The different values of an overridden key: numbers by size, then words."""

    def order(value: str) -> tuple[float, str]:
        try:
            return float(value), ""
        except ValueError:
            return math.inf, value

    return sorted({row["overrides"].get(key, "-") for row in rows}, key=order)
