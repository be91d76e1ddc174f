"""Which model's answers are preferred: by a language model that is asked, and by people who voted.

Reads   metrics/predictions.jsonl; data/raw/votes, and metrics/eval_detail.json for whose weights they compare
Writes  metrics/judge.json (rates with intervals, warnings), metrics/verdicts.jsonl (every verdict of the judge)
Run     python -m stages.judge judge.backend=openai judge.endpoint=http://… judge.model=…

backend=none, the default, asks nobody.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.lib.asking.answer_models import cache_home, make_ask
from stages.lib.data.jsonl_reader import Rejected
from stages.lib.evaluation.scored_rows import ScoredRow
from stages.lib.evaluation.verdicts import Verdict, ask_both_orders, by_models, judged, warnings_of
from stages.lib.every_stage.entry import run
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.foreign_text import shown
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import read_jsonl, share_of, write_json, write_jsonl
from stages.lib.preferences.votes import Vote, read_votes
from stages.lib.schema.choices import JudgeBackend
from stages.lib.schema.evaluation import Judge

PREDICTIONS = Path("metrics/predictions.jsonl")
DETAIL = Path("metrics/eval_detail.json")
VOTES = Path("data/raw/votes")
JUDGE = Path("metrics/judge.json")
VERDICTS = Path("metrics/verdicts.jsonl")


def judge(section: Judge, root: Path) -> dict[str, Any]:
    verdicts: list[Verdict] = []
    figures: dict[str, Any] = {}
    if section.backend is not JudgeBackend.none:
        verdicts = ask_all(section, answers_by_model(PREDICTIONS))
        pairs = [(pair.split(":")[0], pair.split(":")[1]) for pair in section.pairs]
        for pair in pairs:
            figures[":".join(pair)] = judged(pair, verdicts, section.bootstrap_resamples, section.seed)
        figures["warnings"] = [line for pair in pairs for line in warnings_of(pair, figures[":".join(pair)])]
    if votes := read_votes(VOTES):
        figures["people"] = people(section, votes)
        unread = [f"{vote.where}: no vote: {vote.detail}" for vote in votes if isinstance(vote, Rejected)]
        figures["warnings"] = [*figures.get("warnings", []), *unread]
    for line in figures.get("warnings", []):
        print(shown(line), flush=True)
    with published(root / VERDICTS) as path:
        write_jsonl(path, verdicts)
    with published(root / JUDGE) as path:
        write_json(path, figures)
    return {"verdicts": len(verdicts)}


def people(section: Judge, votes: list[Vote | Rejected]) -> dict[str, Any]:
    """Figures of people's votes for each pair of models that they compare."""
    current = set(json.loads(DETAIL.read_text(encoding="utf-8"))["weights_sha256"].values())
    pairs = by_models([vote for vote in votes if isinstance(vote, Vote)], current)
    options = section.bootstrap_resamples, section.seed
    return {":".join(pair): judged(pair, verdicts, *options) for pair, verdicts in pairs.items()}


def ask_all(section: Judge, answers: dict[str, dict[str, ScoredRow]]) -> list[Verdict]:
    """Both orders of every pair of models on every question."""
    ask = make_ask(section, cache_home(), "judge")
    verdicts: list[Verdict] = []
    for pair in section.pairs:
        left, right = pair.split(":")
        if missing := {left, right} - set(answers):
            raise UserError(f"judge.pairs: found {pair!r}, but {PREDICTIONS} has no answers of {sorted(missing)}")
        for question in sorted(answers[left], key=share_of)[: section.questions]:
            sides = answers[left][question], answers[right][question]
            verdicts += ask_both_orders((left, right), *sides, ask, f"{section.backend.value}:{section.model}")
    return verdicts


def answers_by_model(path: Path) -> dict[str, dict[str, ScoredRow]]:
    """Rows with an answer: model, then row id."""
    answers: dict[str, dict[str, ScoredRow]] = {}
    for row in read_jsonl(path):
        if "prediction" in row:
            answers.setdefault(row["model"], {})[row["id"]] = row
    return answers


if __name__ == "__main__":
    run(judge)
