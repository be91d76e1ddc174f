"""Pairs of a better and a worse answer for DPO, and held-out pairs that score it.

Reads   Orca pairs from the hub, or a file in their schema (system, input, chosen, rejected, status, chosen_score, …);
        data/prepared/pdf_qa, whose evaluation questions no pair may ask
Writes  data/prepared/preferences: train.jsonl, evaluation.jsonl, report.json
Run     python -m stages.prepare_preferences
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from stages.lib.entry import run
from stages.lib.errors import UserError
from stages.lib.publish import published
from stages.lib.records import normalised, read_jsonl, share_of, write_json, write_jsonl
from stages.lib.rows import load_rows
from stages.lib.schema import PreparePreferences

SOURCE = Path("data/raw/preferences")
PDF_QA = Path("data/prepared/pdf_qa")
OUT = Path("data/prepared/preferences")


def prepare_preferences(section: PreparePreferences, root: Path) -> dict[str, Any]:
    pairs, dropped = clean(load_rows(section.rows), section.min_chosen_score)
    refuse_evaluation_questions(pairs, PDF_QA)
    train = [pair for pair in pairs if share_of(pair["id"]) >= section.held_out_pairs]
    evaluation = [pair for pair in pairs if share_of(pair["id"]) < section.held_out_pairs]
    report = {"train": len(train), "evaluation": len(evaluation), "dropped": dropped}
    with published(root / OUT) as out:
        out.mkdir()
        write_jsonl(out / "train.jsonl", train)
        write_jsonl(out / "evaluation.jsonl", evaluation)
        write_json(out / "report.json", report)
    return report


def clean(rows: list[dict[str, Any]], min_chosen_score: float) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The notebook's filter and the defects that the real set has.

    Returns records of id, prompt (messages), chosen and rejected (texts), and the number dropped by reason; kept and
    dropped add up to the rows.
    """
    kept, dropped, seen = [], Counter[str](), set()
    for row in rows:
        question, chosen, rejected = (row[name].strip() for name in ("input", "chosen", "rejected"))
        system = (row.get("system") or "").strip()
        identity = normalised(system + question)
        if row["status"] == "tie":
            dropped["tie"] += 1
        elif row["chosen_score"] is None:
            dropped["no_score"] += 1
        elif row["chosen_score"] < min_chosen_score:
            dropped["low_score"] += 1
        elif row["in_gsm8k_train"]:
            dropped["in_gsm8k_train"] += 1
        elif not (question and chosen and rejected):
            dropped["blank_content"] += 1
        elif chosen == rejected:
            dropped["equal_answers"] += 1
        elif identity in seen:
            dropped["duplicate_prompt"] += 1
        else:
            seen.add(identity)
            messages = [{"role": "system", "content": system}] if system else []
            prompt = [*messages, {"role": "user", "content": question}]
            kept.append(
                {
                    "id": hashlib.sha256(identity.encode()).hexdigest()[:16],
                    "prompt": prompt,
                    "chosen": chosen,
                    "rejected": rejected,
                }
            )
    return kept, dict(dropped)


def refuse_evaluation_questions(pairs: list[dict[str, Any]], pdf_qa: Path) -> None:
    """Raise UserError naming the pairs that ask a question of `pdf_qa`'s evaluation sets."""
    asked = {
        normalised(row["messages"][0]["content"])
        for name in ("seen", "unseen")
        for row in read_jsonl(pdf_qa / f"{name}.jsonl")
    }
    shared = [pair["prompt"][-1]["content"] for pair in pairs if normalised(pair["prompt"][-1]["content"]) in asked]
    if shared:
        raise UserError(
            f"{len(shared)} pairs ask evaluation questions: {'; '.join(shared[:3])}. "
            "Reword or remove them: the score would be of trained answers"
        )


if __name__ == "__main__":
    run(prepare_preferences)
