"""The evaluation as people read it: metrics/eval_report.md."""

from typing import Any

SHOWN = [
    ("seen", "key_exact"),
    ("seen", "key_recall"),
    ("seen", "chrf"),
    ("seen", "stop_rate"),
    ("unseen", "key_exact"),
    ("seen", "perplexity"),
    ("control", "perplexity"),
    ("preferences", "accuracy"),
    ("preferences", "margin"),
]
"""Split and figure of each line of the table."""


def figure(cell: dict[str, float] | None) -> str:
    """One figure with its interval, such as 0.62 [0.50, 0.73]."""
    if cell is None:
        return "-"
    return f"{cell['value']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]"


def table(detail: dict[str, Any]) -> str:
    """The models side by side, as a Markdown table."""
    models = list(detail["models"])
    lines = ["| set | figure | n | " + " | ".join(models) + " |", "| --- | --- | --- |" + " --- |" * len(models)]
    for split, name in SHOWN:
        cells = [detail["models"][model].get(split, {}).get(name) for model in models]
        if any(cells):
            n = next(cell["n"] for cell in cells if cell)
            lines.append(f"| {split} | {name} | {n} | " + " | ".join(figure(cell) for cell in cells) + " |")
    return "\n".join(lines)


def render(detail: dict[str, Any], predictions: list[dict[str, Any]]) -> str:
    """The whole report: table, the demo question before and after, wrong answers, regressions against the base."""
    models = list(detail["models"])
    last = models[-1]
    facts = [row for row in predictions if "key_exact" in row["scores"]]
    before = {row["id"]: row["scores"]["key_exact"] for row in facts if row["model"] == models[0]}
    after = [row for row in facts if row["model"] == last]
    wrong = [row for row in after if row["split"] == "seen" and not row["scores"]["key_exact"]]
    wrong.sort(key=lambda row: (row["scores"]["chrf"], row["id"]))
    worse = [row for row in after if row["scores"]["key_exact"] < before[row["id"]]]
    demo = "\n".join(f"- {name}: {text}" for name, text in detail["demo"]["answers"].items())
    return f"""# Evaluation

Greedy answers, at most {detail["settings"]["max_new_tokens"]} new tokens. Intervals: 95 % bootstrap over facts.
seen: trained facts in unseen wordings. unseen: facts that training never saw (right answers there are luck, wrong
ones made up). control: chats not trained on. preferences: held-out pairs.

{table(detail)}

## Before and after

{detail["demo"]["question"]}

{demo}

## Wrong answers of {last} on seen facts ({len(wrong)})

{listing(wrong[:10])}

## Right by {models[0]}, wrong by {last} ({len(worse)})

{listing(worse)}
"""


def listing(rows: list[dict[str, Any]]) -> str:
    """Questions with the reference and the answer given."""
    lines = [f"- {row['prompt']}\n  - wanted: {row['reference']}\n  - given: {row['prediction'][:200]}" for row in rows]
    return "\n".join(lines) or "None."
