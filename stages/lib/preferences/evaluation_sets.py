"""The evaluation sets of questions from PDFs, which nothing that trains may ask."""

from pathlib import Path

from stages.lib.data.near_duplicates import KnownQuestions
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import read_jsonl

EVALUATION_SETS = ("seen", "unseen", "unanswerable")


def evaluation_questions(pdf_qa: Path) -> KnownQuestions:
    """The questions of `pdf_qa`'s evaluation sets, by row id."""
    asked = KnownQuestions()
    for split in EVALUATION_SETS:
        for row in read_jsonl(pdf_qa / f"{split}.jsonl"):
            asked.add(f"{split} {row['id']}", row["messages"][0]["content"])
    return asked


def refuse_leaks(leaks: list[str], what: str) -> None:
    """Raise UserError naming what asks an evaluation question, however spaced, or nearly one; `what` is in plural."""
    if leaks:
        raise UserError(
            f"{len(leaks)} {what} ask evaluation questions: {'; '.join(leaks[:5])}. "
            "Reword or remove them: the score would be of trained answers"
        )
