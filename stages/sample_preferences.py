"""Preference pairs from the merged SFT model's own answers to questions with a known answer.

Reads   models/sft-merged; data/prepared/pdf_qa: the trained questions, and the evaluation sets that none may be of;
        data/prepared/preferences: questions of pairs, whose chosen answers are the known ones, and the held-out pairs,
        whose questions are left out
Writes  data/prepared/sampled_preferences: train.jsonl (empty where it is off), samples.jsonl with every answer and its
        verdict, DATA_CARD.md; metrics/sample_preferences.json: what became of questions and answers
Run     python -m stages.sample_preferences sample_preferences.enabled=true
"""

import time
from pathlib import Path
from typing import Any

from stages.lib.data.data_report import table
from stages.lib.data.near_duplicates import KnownQuestions
from stages.lib.evaluation.batches import explain_full_memory, fitting_batches
from stages.lib.evaluation.generation import sample_answers
from stages.lib.evaluation.progress import progress
from stages.lib.evaluation.sampled_pairs import Pairs, asked_by, balance, pairs_of, verifiable, wordings_of
from stages.lib.evaluation.scored_rows import Record
from stages.lib.evaluation.scoring import room_for_answers
from stages.lib.every_stage.entry import run
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import refuse_changed_weights, weights_sha256
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import read_jsonl, write_json, write_jsonl
from stages.lib.hardware import describe, find_hardware, resolve_dtype, set_up_cpu
from stages.lib.models.loading import load_16bit, load_tokenizer
from stages.lib.preferences.evaluation_sets import evaluation_questions, refuse_leaks
from stages.lib.schema.choices import AskedOf
from stages.lib.schema.evaluation import SamplePreferences

MODEL = Path("models/sft-merged")
PDF_QA = Path("data/prepared/pdf_qa")
PREFERENCES = Path("data/prepared/preferences")
OUT = Path("data/prepared/sampled_preferences")
METRICS = Path("metrics/sample_preferences.json")


def sample_preferences(section: SamplePreferences, root: Path) -> dict[str, Any]:
    if not section.enabled:
        publish(root, Pairs(), {}, "Nothing was sampled: `sample_preferences.enabled` is false.")
        return {"enabled": False}
    refuse_changed_weights(MODEL, kind="merged")
    threads, dtype = set_up_cpu(section.threads), resolve_dtype(section.dtype)
    records, questions = known_questions(section)
    tokenizer, model = load_tokenizer(MODEL), load_16bit(MODEL, dtype)
    room = section.max_new_tokens or room_for_answers(tokenizer, records)
    batch = fitting_batches(model, find_hardware(), room, section.batch_tokens)
    began = time.monotonic()
    with explain_full_memory(batch, "sample_preferences.batch_tokens"):
        prompts = [record["messages"][:-1] for record in records]
        answers = sample_answers(
            model, tokenizer, prompts, section.samples, section.temperature, section.seed, room, batch.generated,
            progress("sample-preferences", "questions", len(prompts)),
        )  # fmt: skip
    compute_seconds = round(time.monotonic() - began, 1)
    pairs = pairs_of(records, answers, section.pairs_per_question, tokenizer)
    balance(pairs, section.max_ratio)
    questions["without_wrong"] = pairs.without_wrong
    publish(root, pairs, questions, card(section, pairs, questions))
    print(f"sample-preferences: {len(pairs.records)} pairs from {pairs.answers.total()} answers to {len(records)} "
          f"questions; look at {OUT / 'DATA_CARD.md'}", flush=True)  # fmt: skip
    return {**describe(), "threads": threads, "dtype": str(dtype), "compute_seconds": compute_seconds,
            "batch_tokens": batch.generated, "max_new_tokens": room, "pairs": len(pairs.records)}  # fmt: skip


def known_questions(section: SamplePreferences) -> tuple[list[Record], dict[str, int]]:
    """The rows whose questions are asked, and how many of all are asked or left out, by why.

    Raises UserError naming those that an evaluation set of PDF questions asks, and where none is left.
    """
    rows = rows_of(section.sources)
    asked, held_out = evaluation_questions(PDF_QA), held_out_questions(PREFERENCES / "evaluation.jsonl")
    leaks, records, counts = [], [], {"known": len(rows), "in_held_out_pairs": 0, "unverifiable": 0}
    for row in rows:
        question = row["messages"][-2]["content"]
        if known := asked.find(question):
            leaks.append(f"{row['id']} ({question[:60]}) = {known}")
        elif held_out.find(question):
            counts["in_held_out_pairs"] += 1
        elif not verifiable(row):
            counts["unverifiable"] += 1
        else:
            records.append(row)
    refuse_leaks(leaks, "questions to sample on")
    chosen = wordings_of(records, section.wordings)
    if not chosen:
        raise UserError(
            f"{PDF_QA} and {PREFERENCES}: none of {len(rows)} questions can be sampled on: "
            f"{counts['in_held_out_pairs']} are in held-out pairs, {counts['unverifiable']} have answers without a key "
            "fact. Give rows a `key`, or set sample_preferences.enabled=false"
        )
    return chosen, {**counts, "other_wordings": len(records) - len(chosen), "asked": len(chosen)}


def rows_of(sources: list[AskedOf]) -> list[Record]:
    """The trained rows of questions, and those of pairs, each with its chosen answer."""
    rows: list[Record] = list(read_jsonl(PDF_QA / "train.jsonl")) if AskedOf.pdf_qa in sources else []
    if AskedOf.preferences in sources:
        pairs = {pair["prompt"][-1]["content"]: pair for pair in read_jsonl(PREFERENCES / "train.jsonl")}
        rows += [asked_by(pair) for pair in pairs.values()]
    return rows


def held_out_questions(path: Path) -> KnownQuestions:
    """The questions of the preference pairs that DPO is scored by."""
    asked = KnownQuestions()
    for pair in read_jsonl(path):
        asked.add(pair["id"], pair["prompt"][-1]["content"])
    return asked


def card(section: SamplePreferences, pairs: Pairs, questions: dict[str, int]) -> str:
    """The data card: what was asked, what was answered, what became pairs, caveats."""
    return "\n\n".join([
        "# Preference pairs from the model's own answers",
        "Written by the stage from what it drew and counted; nothing here was typed by hand.",
        f"{section.samples} answers to each question were drawn from `{MODEL}` ({weights_sha256(MODEL)[:16]}) at "
        f"temperature {section.temperature:g}, seed {section.seed}. An answer that states another fact than the "
        "known one (`wrong_fact`), makes one up where there is none (`made_up`) or refuses what has an answer "
        "(`refused`) is rejected; the known answer is chosen: the one that SFT was trained on, or a pair's chosen one.",
        "## Questions", table(("what", "questions"), questions.items()),
        "## Answers", table(("verdict", "answers"), sorted(pairs.answers.items())),
        "## Pairs", table(("rejected because", "pairs"), pairs.reasons().items()),
        "Rejected answers that make no pair:", table(("why", "answers"), sorted(pairs.left_out.items())),
        "## Caveats",
        "- Verdicts are by key facts and by phrases that refuse (`stages/lib/evaluation`): an answer that holds the "
        "key facts and something false besides counts as right. `samples.jsonl` has every answer with its verdict.",
    ]) + "\n"  # fmt: skip


def publish(root: Path, pairs: Pairs, questions: dict[str, int], text: str) -> None:
    """Write the stage's outs."""
    with published(root / OUT) as out:
        out.mkdir()
        write_jsonl(out / "train.jsonl", pairs.records)
        write_jsonl(out / "samples.jsonl", pairs.samples)
        (out / "DATA_CARD.md").write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    with published(root / METRICS) as path:
        figures = {"questions": questions, "answers": dict(pairs.answers), "pairs": pairs.reasons(),
                   "left_out": dict(pairs.left_out)}  # fmt: skip
        write_json(path, figures if questions else {})


if __name__ == "__main__":
    run(sample_preferences)
