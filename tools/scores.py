"""Print the last evaluation and what each stage cost.

Reads   metrics/eval_detail.json, metrics/runs/*.json
Run     python -m tools.scores
"""

import json
import sys
from pathlib import Path

from stages.lib.report import SHOWN, figure, signed

DETAIL = Path("metrics/eval_detail.json")
RUNS = Path("metrics/runs")
MODELS = ["base", "sft", "dpo"]
STAGES = ["prepare_base", "prepare_ultrachat", "prepare_pdf_qa", "prepare_preferences"]
STAGES += ["sft", "merge", "dpo", "merge_dpo", "evaluate", "judge", "benchmark", "report"]


def scores_text(detail: dict) -> str:
    """The figures of each model with 95 % intervals, and the demo question before and after."""
    models = [name for name in MODELS if name in detail["models"]]
    last = models[-1]
    lines = [f"{'':24}" + "".join(f"{name:>22}" for name in [*models, f"{last} - {models[0]}"])]
    for split, name in SHOWN:
        cells = [detail["models"][model].get(split, {}).get(name) for model in models]
        if any(cells):
            change = signed(detail["differences"][last].get(split, {}).get(name))
            lines.append(f"{split + ' ' + name:24}" + "".join(f"{text:>22}" for text in [*map(figure, cells), change]))
    lines += ["", detail["demo"]["question"]]
    answers = detail["demo"]["answers"]
    lines += [f"  {model:5} {' '.join(answers[model].split())[:110]}" for model in models]
    lines += ["", *(f"Beware: {line}" for line in detail["warnings"]), "More: metrics/eval_report.html"]
    return "\n".join(lines)


def costs_text(runs: Path) -> str:
    """Seconds and peak memory of the stages that ran on this machine."""
    lines = [f"{'stage':24}{'seconds':>9}{'peak MiB':>10}  finished (UTC)"]
    for name in STAGES:
        path = runs / f"{name}.json"
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            cost = f"{record['seconds']:>9.1f}{record['peak_memory_mib']:>10}"
            lines.append(f"{record['stage']:24}{cost}  {record['finished']}")
    return "\n".join(lines)


if __name__ == "__main__":
    if not DETAIL.is_file():
        sys.exit(f"{DETAIL}: no such file; run `make repro` first")
    print(scores_text(json.loads(DETAIL.read_text(encoding="utf-8"))))
    print()
    print(costs_text(RUNS))
