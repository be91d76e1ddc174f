"""What was measured, for people: a report with curves, answers and lineage, and a model card.

Reads   metrics/ (evaluation, verdicts, benchmarks, training logs, data funnels), models/*/lineage.json
Writes  metrics/eval_report.html (one page that opens offline), metrics/eval_report.md, models/card/README.md,
        metrics/scores.json (the figures that DVC's tables show)
Run     python -m stages.report
"""

import csv
import json
import subprocess
import time
from pathlib import Path
from typing import Any

from stages.lib.every_stage.entry import run
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import read_jsonl, write_json
from stages.lib.reports.evidence import Evidence, render
from stages.lib.reports.headline import headline
from stages.lib.reports.model_card import model_card
from stages.lib.reports.page import page
from stages.lib.reports.verdict import idle_steps, in_words
from stages.lib.schema.evaluation import Report

DETAIL = Path("metrics/eval_detail.json")
PREDICTIONS = Path("metrics/predictions.jsonl")
JUDGE = Path("metrics/judge.json")
BENCHMARK = Path("metrics/benchmark_detail.json")
SFT_LOG = Path("metrics/sft_log.csv")
DPO_LOG = Path("metrics/dpo_log.csv")
ULTRACHAT_FUNNEL = Path("metrics/data_ultrachat_funnel.csv")
PDF_QA_FUNNEL = Path("metrics/data_pdf_qa_funnel.csv")
PREFERENCES_FUNNEL = Path("metrics/data_preferences_funnel.csv")
BASE_LINEAGE = Path("models/base/lineage.json")
SFT_LINEAGE = Path("models/sft/lineage.json")
SFT_MERGED_LINEAGE = Path("models/sft-merged/lineage.json")
DPO_LINEAGE = Path("models/dpo/lineage.json")
DPO_MERGED_LINEAGE = Path("models/dpo-merged/lineage.json")
PAGE = Path("metrics/eval_report.html")
TEXT = Path("metrics/eval_report.md")
CARD = Path("models/card")
SCORES = Path("metrics/scores.json")

FUNNELS = {
    "conversations": ULTRACHAT_FUNNEL,
    "questions and answers": PDF_QA_FUNNEL,
    "preference pairs": PREFERENCES_FUNNEL,
}
LINEAGES = [BASE_LINEAGE, SFT_LINEAGE, SFT_MERGED_LINEAGE, DPO_LINEAGE, DPO_MERGED_LINEAGE]


def report(section: Report, root: Path) -> dict[str, Any]:
    evidence = Evidence(
        detail=read_json(DETAIL),
        predictions=list(read_jsonl(PREDICTIONS)),
        judge=read_json(JUDGE),
        benchmark={model: held["figures"] for model, held in read_json(BENCHMARK).items()},
        logs={"sft": read_log(SFT_LOG), "dpo": read_log(DPO_LOG)},
        funnels={name: read_funnel(path) for name, path in FUNNELS.items()},
        lineages={path.parent.name: read_json(path) for path in LINEAGES},
        made=", ".join([time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), *commit()]),
    )
    with published(root / PAGE) as path:
        path.write_text(page(evidence), encoding="utf-8")
    with published(root / TEXT) as path:
        path.write_text(render(evidence), encoding="utf-8")
    with published(root / CARD) as path:
        path.mkdir()
        (path / "README.md").write_text(model_card(section, evidence), encoding="utf-8")
    with published(root / SCORES) as path:
        write_json(path, headline(evidence.detail))
    for language in ("ko", "en"):
        print(in_words(evidence.detail, language), flush=True)
    for step in idle_steps(evidence.detail):
        print(f"{step.ko}\n{step.en}", flush=True)
    return {}


def commit() -> list[str]:
    """The Git commit that the workspace is on, its results not yet among it; none outside of a repository."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return []
    return [f"on commit {found}"]


def read_json(path: Path) -> Any:
    """What another stage wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_log(path: Path) -> list[dict[str, float]]:
    """A training log: one row a logged step, each column a number or, where nothing was measured, left out."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def read_funnel(path: Path) -> list[tuple[str, int]]:
    """A data funnel: step and rows left."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["step"], int(row["rows"])) for row in csv.DictReader(file)]


if __name__ == "__main__":
    run(report)
