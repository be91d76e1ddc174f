"""A language model's verdicts on pairs of answers: which model's does it prefer?

Reads   metrics/predictions.jsonl
Writes  metrics/judge.json (rates with intervals, warnings), metrics/verdicts.jsonl (every verdict)
Run     python -m stages.judge judge.backend=openai judge.endpoint=http://… judge.model=…

backend=none, the default, asks nobody and writes empty files.
"""

from pathlib import Path
from typing import Any

from stages.lib.answer_models import cache_home, make_ask
from stages.lib.entry import run
from stages.lib.errors import UserError
from stages.lib.lineage import weights_sha256
from stages.lib.publish import published
from stages.lib.records import read_jsonl, share_of, write_json, write_jsonl
from stages.lib.schema import Backend, Generate, Judge, JudgeBackend
from stages.lib.verdicts import ask_both_orders, judged, warnings_of

PREDICTIONS = Path("metrics/predictions.jsonl")
JUDGE = Path("metrics/judge.json")
VERDICTS = Path("metrics/verdicts.jsonl")


def judge(section: Judge, root: Path) -> dict[str, Any]:
    verdicts: list[dict[str, Any]] = []
    figures: dict[str, Any] = {}
    if section.backend is not JudgeBackend.none:
        verdicts = ask_all(section, answers_by_model(PREDICTIONS))
        pairs = [(pair.split(":")[0], pair.split(":")[1]) for pair in section.pairs]
        for pair in pairs:
            figures[":".join(pair)] = judged(pair, verdicts, section.bootstrap_resamples, section.seed)
        figures["warnings"] = [line for pair in pairs for line in warnings_of(pair, figures[":".join(pair)])]
        for line in figures["warnings"]:
            print(line, flush=True)
    with published(root / VERDICTS) as path:
        write_jsonl(path, verdicts)
    with published(root / JUDGE) as path:
        write_json(path, figures)
    return {"verdicts": len(verdicts)}


def ask_all(section: Judge, answers: dict[str, dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Both orders of every pair of models on every question."""
    local = section.backend is JudgeBackend.hf
    # A name is no version: other weights in the same directory must be asked again.
    cache = cache_home() / weights_sha256(Path(section.model))[:16] if local else cache_home()
    backend = Backend.huggingface if local else Backend.openai
    asked = Generate(backend, section.model, section.endpoint, max_new_tokens=section.max_new_tokens)
    ask = make_ask(asked, cache, "judge")
    verdicts: list[dict[str, Any]] = []
    for pair in section.pairs:
        left, right = pair.split(":")
        if missing := {left, right} - set(answers):
            raise UserError(f"judge.pairs: found {pair!r}, but {PREDICTIONS} has no answers of {sorted(missing)}")
        for question in sorted(answers[left], key=share_of)[: section.questions]:
            sides = answers[left][question], answers[right][question]
            verdicts += ask_both_orders((left, right), *sides, ask, f"{section.backend.value}:{section.model}")
    return verdicts


def answers_by_model(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows with an answer: model, then row id."""
    answers: dict[str, dict[str, dict[str, Any]]] = {}
    for row in read_jsonl(path):
        if "prediction" in row:
            answers.setdefault(row["model"], {})[row["id"]] = row
    return answers


if __name__ == "__main__":
    run(judge)
