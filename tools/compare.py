"""Compare the scores of two commits on the same questions: are the differences more than chance, and which answers
changed?

Reads   params.lock.yaml and metrics/eval_detail.json of both commits from Git, metrics/predictions.jsonl from DVC
Run     graft compare REV_A [REV_B] [--model dpo] [--all]        REV_B left out: the working tree
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.lib.configuration import flatten
from stages.lib.evaluation.figures import differences, figures_of, rows_by_figure
from stages.lib.evaluation.scored_rows import ScoredRow
from stages.lib.evaluation.statistics import mcnemar
from stages.lib.every_stage.entry import exit_on_user_error
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.foreign_text import on_one_line, shown
from stages.lib.reports.evidence import shown_in
from stages.lib.reports.numbers import figure, judgement, signed
from tools.lib.command_line import parser_of

DETAIL = "metrics/eval_detail.json"
PREDICTIONS = "metrics/predictions.jsonl"
LOCK = "params.lock.yaml"
WORKING_TREE = "working tree"
BINARY = "key_exact"
"""The figure that is right or wrong row by row, as McNemar's test needs it."""
SHOWN_ANSWERS = 10


@dataclass
class Run:
    """One commit's evaluation."""

    name: str
    params: dict[str, Any]
    detail: dict[str, Any]
    rows: list[ScoredRow]

    def of(self, model: str) -> list[ScoredRow]:
        """The rows of one model. Raises UserError if it was not scored."""
        rows = [row for row in self.rows if row["model"] == model]
        if not rows:
            raise UserError(f"{self.name}: found no rows of {model!r}; needed one of {sorted(self.detail['models'])}")
        return rows


def read_run(revision: str) -> Run:
    """The evaluation of a Git revision, or of the working tree for ""."""
    lines = read_file(revision, PREDICTIONS, tracked_by_dvc=True).splitlines()
    return Run(
        name=subject(revision) if revision else WORKING_TREE,
        params=flatten(yaml.safe_load(read_file(revision, LOCK))),
        detail=json.loads(read_file(revision, DETAIL)),
        rows=[json.loads(line) for line in lines],
    )


def read_file(revision: str, path: str, tracked_by_dvc: bool = False) -> str:
    """A file's text at a revision. Raises UserError with what to do where it isn't to be had."""
    if not revision:
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file in the working tree; run `dvc repro` or `dvc pull` first")
        return Path(path).read_text(encoding="utf-8")
    if tracked_by_dvc:
        return read_from_dvc(revision, path)
    shown = subprocess.run(["git", "show", f"{revision}:{path}"], capture_output=True, text=True)
    if shown.returncode:
        raise UserError(f"{revision}: {shown.stderr.strip()}; needed a commit of a finished run, with {path} in it")
    return shown.stdout


def read_from_dvc(revision: str, path: str) -> str:
    """The text of an output of DVC at a revision, from its cache or remote."""
    import dvc.api
    from dvc.exceptions import DvcException

    try:
        return dvc.api.read(path, rev=revision, encoding="utf-8")
    except (DvcException, FileNotFoundError) as error:
        raise UserError(
            f"{revision}: {path} can't be had: {str(error).rstrip('.')}. Needed a commit whose run is in DVC's cache: "
            "`dvc fetch --all-commits` if there is a remote, or check out the commit and run `dvc repro`"
        ) from None


def subject(revision: str) -> str:
    """A commit's short name and subject."""
    return subprocess.run(
        ["git", "log", "-1", "--format=%h %s", revision], capture_output=True, text=True, check=True
    ).stdout.strip()


def refuse_incomparable(before: Run, after: Run) -> None:
    """Raise UserError listing why scores of the two runs mean different things."""
    reasons = []
    for key, told in (("sets_sha256", "evaluation set"), ("signatures", "metric"), ("settings", "generation setting")):
        old, new = before.detail[key], after.detail[key]
        reasons += [
            f"{told} {name}: {str(old.get(name))[:60]} in A, {str(new.get(name))[:60]} in B"
            for name in sorted(set(old) | set(new))
            if old.get(name) != new.get(name) and name not in ("resamples", "seed")
        ]
    if reasons:
        raise UserError(
            "these runs can't be compared:\n  " + "\n  ".join(reasons) + "\nScore both on the same questions in the "
            "same way: check out A, take B's evaluation data and settings, and run `dvc repro evaluate`"
        )


def changed_parameters(before: Run, after: Run) -> list[str]:
    """One line for each value of params.lock.yaml that differs."""
    keys = sorted(set(before.params) | set(after.params))
    absent = "(absent)"
    return [
        f"{key}: {before.params.get(key, absent)} -> {after.params.get(key, absent)}"
        for key in keys
        if before.params.get(key, absent) != after.params.get(key, absent)
    ]


def comparison(before: Run, after: Run, model: str, everything: bool = False) -> str:
    """The whole comparison as text. Raises UserError for runs that can't be compared."""
    refuse_incomparable(before, after)
    old, new = before.of(model), after.of(model)
    same_tokens = before.detail["tokenizer_sha256"] == after.detail["tokenizer_sha256"]
    parts = [f"A  {before.name}\nB  {after.name}"]
    parts.append("Parameters that differ\n" + indented(changed_parameters(before, after)))
    parts.append(f"Scores of {model} (95 % intervals; differences are paired over common rows)\n")
    parts[-1] += table(old, new, before.detail["settings"], everything, same_tokens)
    if not same_tokens:
        parts[-1] += "\n  perplexity is left out: A and B have different tokenizers; bits_per_character is comparable"
    parts.append(changed_answers(old, new))
    return "\n\n".join(parts)


def table(
    old: list[ScoredRow], new: list[ScoredRow], settings: dict[str, int], everything: bool, same_tokens: bool
) -> str:
    """Figures of both sides, their difference, and McNemar's test where rows are right or wrong."""
    options = {"resamples": settings["resamples"], "seed": settings["seed"]}
    left, right, change = figures_of(old, **options), figures_of(new, **options), differences(old, new, **options)
    every = [(split, name) for split, cells in change.items() for name in cells]
    lines = [f"  {'':28}{'n':>5}{'A':>28}{'B':>28}{'B - A':>30}"]
    for split, name in every if everything else shown_in(change):
        if name in change.get(split, {}) and (same_tokens or name != "perplexity"):
            cell = change[split][name]
            sides = f"{figure(left[split][name]):>28}{figure(right[split][name]):>28}{signed(cell):>30}"
            sure = "" if cell["low"] <= 0 <= cell["high"] else "  beyond chance"
            sure += ("", ": better", ": worse")[judgement(cell, split, name)]
            lines.append(f"  {split + ' ' + name:28}{cell['n']:>5}{sides}{sure}")
    for split in change:
        if BINARY in change[split]:
            pairs = paired(rows_by_figure(old, split)[BINARY], rows_by_figure(new, split)[BINARY])
            test = mcnemar([a["scores"][BINARY] for a, _ in pairs], [b["scores"][BINARY] for _, b in pairs])
            lines.append(
                f"  {split} {BINARY}: {test['gained']} gained, {test['lost']} lost, exact McNemar p = {test['p']:.4f}"
            )
    return "\n".join(lines)


def paired(old: list[ScoredRow], new: list[ScoredRow]) -> list[tuple[ScoredRow, ScoredRow]]:
    """Rows of the same id."""
    by_id = {(row["split"], row["id"]): row for row in new}
    return [(row, by_id[row["split"], row["id"]]) for row in old if (row["split"], row["id"]) in by_id]


def changed_answers(old: list[ScoredRow], new: list[ScoredRow]) -> str:
    """Answers that became right, that became wrong, and how many merely read otherwise."""
    pairs = [(a, b) for a, b in paired(old, new) if a.get("prediction") != b.get("prediction")]
    parts = []
    for title, wanted in (("Became right", 1), ("Became wrong", -1)):
        found = [(a, b) for a, b in pairs if b["scores"].get(BINARY, 0) - a["scores"].get(BINARY, 0) == wanted]
        lines = [
            f"{a['split']}: {on_one_line(a['prompt'])}\n    wanted {on_one_line(a['reference'])}\n"
            f"    A      {on_one_line(a['prediction'][:150])}\n    B      {on_one_line(b['prediction'][:150])}"
            for a, b in found[:SHOWN_ANSWERS]
        ]
        more = [f"and {len(found) - SHOWN_ANSWERS} more"] if len(found) > SHOWN_ANSWERS else []
        parts.append(f"{title} ({len(found)})\n" + indented(lines + more))
    others = sum(b["scores"].get(BINARY) == a["scores"].get(BINARY) for a, b in pairs)
    return "\n\n".join([*parts, f"Other words, the same verdict: {others} answers"])


def indented(lines: list[str]) -> str:
    """Lines of a part, or that there are none."""
    return "\n".join(f"  {line}" for line in lines) or "  none"


def main() -> None:
    parser = parser_of("compare", __doc__)
    parser.add_argument("before", metavar="REV_A")
    parser.add_argument("after", metavar="REV_B", nargs="?", default="")
    parser.add_argument("--model", default="dpo", help="base, sft or dpo (default)")
    parser.add_argument("--all", action="store_true", help="every figure, not the short table's alone")
    given = parser.parse_args()
    exit_on_user_error("compare", lambda: say(given), interrupted="nothing was compared")


def say(given: argparse.Namespace) -> None:
    """Print the comparison that was asked for."""
    print(shown(comparison(read_run(given.before), read_run(given.after), given.model, given.all)))


if __name__ == "__main__":
    main()
