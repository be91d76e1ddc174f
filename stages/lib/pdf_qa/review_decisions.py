"""What people decided about rows of Q&A, one line a decision, and what becomes of a row by it.

{"id": "5f0c…", "decision": "edit", "row": "guide-3-2", "question": "몇 시에 여나요", "answer": "9시",
 "new_question": "도서관은 몇 시에 여나요?", "new_answer": "9시에 엽니다.", "time": "2026-11-26T03:41:07Z"}

A decision holds for its words, question and answer to the letter: wherever they stand, as lines move and documents get
other names, and for no other words, so that a row whose text has changed is looked at again. Of two decisions on the
same words the later holds; {"decision": "undo", "undoes": "5f0c…"} takes one back. graft review writes them.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from stages.lib.data.characters import fix
from stages.lib.data.comparison import hash_of, letters
from stages.lib.data.jsonl_reader import Rejected, read_lines
from stages.lib.every_stage.foreign_text import on_one_line
from stages.lib.pdf_qa.grounding import UNGROUNDED
from stages.lib.pdf_qa.rating import RATED

FILE = Path("data/raw/pdf_qa/review/decisions.jsonl")
LEFT_OUT = ("rejected_in_review", "not_reviewed")
"""Why a row is left out that no gate stopped."""
OVERRULED = (
    *UNGROUNDED, *RATED, "question_too_short", "dangling_reference", "no_predicate", "answer_repeats_question",
    "answer_is_refusal", "answer_truncated", "language", "conflict", *LEFT_OUT,
)  # fmt: skip
"""Reasons that a person may overrule by accepting the row: guesses from its wording, or a model's. The others say that
it can't be read or trained on, that it would be learned twice or in evaluation too, or that a setting forbids it."""


class Decision(BaseModel):
    """One decision, strictly typed."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: str
    decision: Literal["accept", "edit", "reject", "undo"]
    row: str = ""
    question: str = ""
    answer: str = ""
    new_question: str = ""  # of an edit
    new_answer: str = ""
    undoes: str = ""  # of an undo: the id of the decision that it takes back
    time: str = ""  # UTC

    @model_validator(mode="after")
    def edited_texts(self) -> "Decision":
        """An edit's texts are fixed as any row's. Raises ValueError for an edit that leaves no text."""
        if self.decision == "edit":
            for name in ("new_question", "new_answer"):
                fixed = fix(getattr(self, name))
                if fixed.unreadable or not fixed.text:
                    raise ValueError(f"{name} {fixed.unreadable or 'holds no visible text'}")
                setattr(self, name, fixed.text)
        return self


def content_of(question: str, answer: str) -> str:
    """What a decision holds for: the digest of a question and its answer."""
    return hashlib.sha256(f"{question}\0{answer}".encode()).hexdigest()[:16]


def words_of(question: str, answer: str) -> tuple[int, int]:
    """What rows have in common that ask and answer the same, spacing and punctuation aside."""
    return hash_of(letters(question)), hash_of(letters(answer))


def read_decisions(path: Path) -> tuple[list[Decision], list[Rejected]]:
    """The decisions of a file in their order, and its lines that are none; two empty lists without a file."""
    decisions: list[Decision] = []
    damaged: list[Rejected] = []
    for line in read_lines(path) if path.is_file() else ():
        if isinstance(line, Rejected):
            damaged.append(line)
            continue
        try:
            decisions.append(Decision.model_validate(line.value))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            detail = f"{'.'.join(map(str, first['loc'])) or 'the line'}: {first['msg']}"
            damaged.append(Rejected(line.where, "wrong_type", detail, ""))
    return decisions, damaged


def in_force(decisions: list[Decision]) -> list[Decision]:
    """The decisions that nothing took back, in order."""
    undone = {decision.undoes for decision in decisions if decision.decision == "undo"}
    return [decision for decision in decisions if decision.decision != "undo" and decision.id not in undone]


@dataclass
class Verdict:
    """What people decided about a row: accept, edit, reject or nothing (""), its words after all edits, and why."""

    decision: str
    question: str
    answer: str
    detail: str = ""


@dataclass
class Review:
    """The decisions in force, and which of them a run has met."""

    decisions: list[Decision]
    damaged: list[Rejected] = field(default_factory=list)
    applied: Counter[str] = field(default_factory=Counter)
    met: set[str] = field(default_factory=set)
    rows_met: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.decisions = in_force(self.decisions)
        self.by_content = {content_of(one.question, one.answer): one for one in self.decisions}
        self.rows = {one.row for one in self.decisions}
        # what was rejected or corrected doesn't come in by a duplicate that differs in a space
        self.not_wanted = {words_of(one.question, one.answer): one for one in self.by_content.values()
                           if one.decision in ("reject", "edit")}  # fmt: skip

    @classmethod
    def of(cls, path: Path) -> "Review":
        """The review that a file holds."""
        return cls(*read_decisions(path))

    def verdict(self, names: tuple[str, ...], question: str, answer: str) -> Verdict:
        """What people decided about a row. `names` are the ids that it may have been shown under."""
        if not self.decisions:
            return Verdict("", question, answer)
        self.rows_met |= self.rows.intersection(names)
        verdict, seen = Verdict("", question, answer), set[str]()
        while (content := content_of(verdict.question, verdict.answer)) in self.by_content and content not in seen:
            seen.add(content)
            self.met.add(content)
            one = self.by_content[content]
            if one.decision == "reject":
                verdict = Verdict("reject", verdict.question, verdict.answer, f"rejected in review on {one.time}")
            elif one.decision == "edit":  # what it became may have been decided about in its turn
                verdict = Verdict("edit", one.new_question, one.new_answer)
            elif not verdict.decision:
                verdict = Verdict("accept", question, answer)
            if one.decision != "edit":
                break
        if not verdict.decision and (other := self.not_wanted.get(words_of(question, answer))):
            word = "rejected" if other.decision == "reject" else "corrected"
            verdict = Verdict("reject", question, answer, f"says what {other.row} does, which was {word} in review")
        return verdict

    def summary(self, overruled: list[str]) -> dict[str, Any]:
        """Counts for the report. `overruled` tells of accepted rows that a gate stopped all the same."""
        missed = [one for content, one in self.by_content.items() if content not in self.met]
        return {
            "decisions": len(self.by_content),
            "applied": dict(sorted(self.applied.items())),
            "changed": [one.row for one in missed if one.row in self.rows_met],
            "gone": [one.row for one in missed if one.row not in self.rows_met],
            "stopped": overruled,
            "damaged": [f"{line.where}: {line.detail}" for line in self.damaged],
        }


def told(summary: dict[str, Any]) -> list[str]:
    """Sentences on a review for the screen and the card; none where nobody decided anything."""
    if not summary:
        return []
    applied = ", ".join(f"{count} {name}" for name, count in summary["applied"].items()) or "none"
    lines = [f"{summary['decisions']} decisions of a review; rows that they were applied to: {applied}."]
    for name, what in (
        ("changed", "decisions weren't applied, since the row's text has changed: look at it again"),
        ("gone", "decisions are on rows that are no longer made"),
        ("stopped", "rows were accepted, but a gate that nobody can overrule stopped them; edit them"),
        ("damaged", f"lines of {FILE} are no decisions and were passed over"),
    ):
        if found := summary[name]:
            shown = ", ".join(map(on_one_line, found[:5])) + (", …" if len(found) > 5 else "")
            lines.append(f"{len(found)} {what}: {shown}.")
    return lines
