"""Print the last evaluation and what each stage cost.

Reads   metrics/eval_detail.json, metrics/{merge,dpo,merge_dpo}.json, metrics/runs/*.json
Run     graft scores
"""

import json
import os
from pathlib import Path
from typing import Any

from stages.lib.every_stage.entry import exit_on_user_error
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.foreign_text import shown
from stages.lib.family import NAMES, STARTED_FROM, TUNED
from stages.lib.reports.caveats import caveats
from stages.lib.reports.evidence import shown_in
from stages.lib.reports.numbers import MARKS, Detail, figure, marked
from stages.lib.reports.verdict import idle_steps, in_words
from tools.lib.phrases import is_korean

DETAIL = Path("metrics/eval_detail.json")
REPORT = Path("metrics/eval_report.html")
RUNS = Path("metrics/runs")
GATES = {name: Path(f"metrics/{name}.json") for name in ("merge", "dpo", "merge_dpo")}
STAGES = ["prepare_base", "prepare_ultrachat", "prepare_pdf_qa", "prepare_preferences", "sft", "merge"]
STAGES += [
    "sample_preferences",
    "dpo",
    "merge_dpo",
    "preference",
    "merge_preference",
    "reward",
    "rl",
    "merge_rl",
    "prune",
    "heal",
    "merge_heal",
    "evaluate",
    "quantize",
    "judge",
    "benchmark",
    "report",
]


def scores_text(detail: Detail) -> str:
    """The figures of each model with 95 % intervals, and the demo question before and after."""
    models = [name for name in NAMES if name in detail["models"]]
    compared = [f"{TUNED} - {models[0]}", f"{TUNED} - {STARTED_FROM[TUNED]}"]
    lines = [f"{'':26}" + "".join(f"{name:>22}" for name in models) + "".join(f"{name:>26}" for name in compared)]
    for split, name in shown_in(detail["models"][models[0]]):
        cells = [detail["models"][model].get(split, {}).get(name) for model in models]
        found = [detail[kind][TUNED].get(split, {}).get(name) for kind in ("differences", "steps")]
        told = [f"{marked(change, split, name):>26}" for change in found]
        lines.append(f"{split + ' ' + name:26}" + "".join(f"{figure(cell):>22}" for cell in cells) + "".join(told))
    lines += ["", detail["demo"]["question"]]
    answers = detail["demo"]["answers"]
    lines += [f"  {model:5} {' '.join(answers[model].split())[:110]}" for model in models]
    lines += ["", in_words(detail, "ko"), in_words(detail, "en"), MARKS]
    lines += [text for step in idle_steps(detail) for text in (step.ko, step.en)]
    korean = is_korean(os.environ)
    lines += ["", *(f"주의: {line.ko}" if korean else f"Caveat: {line.en}" for line in caveats(detail))]
    if REPORT.is_file():
        lines.append(f"{'자세히' if korean else 'More'}: {REPORT}")
    return "\n".join(lines)


def gates_text(gates: dict[str, Path]) -> str:
    """What the merge gates and DPO's start measured."""
    lines = []
    for name, path in gates.items():
        found = read(path) if path.is_file() else {}
        if "kl" in found:
            lines.append(
                f"{name:10} merged against unmerged: KL {found['kl']:.4f} nats a token, same top token "
                f"{found['top1_agreement']:.3f}, perplexity {found['perplexity_unmerged']:.3f} -> "
                f"{found['perplexity_merged']:.3f}"
            )
        elif "step0_loss" in found:
            lines.append(f"{name:10} before the first step: loss {found['step0_loss']}, margin {found['step0_margin']}")
    return "\n".join(lines)


def costs_text(runs: Path) -> str:
    """Seconds and peak memory of the stages that ran on this machine."""
    header = f"{'stage':24}{'seconds':>9}{'peak MiB':>10}  finished (UTC)"
    lines = []
    for name in STAGES:
        path = runs / f"{name}.json"
        if path.is_file():
            record = read(path)
            cost = f"{record['seconds']:>9.1f}{record['peak_memory_mib']:>10}"
            lines.append(f"{record['stage']:24}{cost}  {record['finished']}")
    return "\n".join([header, *lines]) if lines else "No stage has run on this machine yet."


def read(path: Path) -> Any:
    """What a stage wrote. Raises UserError for a file that was cut short, or that holds Git's marks of a conflict."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path}: found no JSON ({error}), needed what a stage wrote: it was cut short, or holds Git's marks of a "
            f"conflict. `git checkout HEAD {path}` brings back what was committed; where nothing was, remove it"
        ) from None


def scores() -> None:
    """Print all of it. Raises UserError where nothing was evaluated, and for a file that is damaged."""
    if not DETAIL.is_file():
        raise UserError(f"{DETAIL}: no such file; run `make repro` first")
    detail: Detail = read(DETAIL)
    parts = [scores_text(detail), gates_text(GATES), costs_text(RUNS)]
    print(shown("\n\n".join(parts)))


if __name__ == "__main__":
    exit_on_user_error("scores", scores, interrupted="not all was shown")
