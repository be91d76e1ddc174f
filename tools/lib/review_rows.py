"""The rows of Q&A that a review shows, of every split and of what was dropped, and the decisions on them."""

import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.lib.data.ledger import REJECTS
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import read_jsonl
from stages.lib.pdf_qa.review_decisions import FILE, OVERRULED, Decision, content_of, in_force, read_decisions
from tools.lib.append_only import append

PREPARED = Path("data/prepared/pdf_qa")
SPLITS = ("train", "seen", "unseen")
DROPPED = "dropped"
OPEN = "open"


@dataclass
class Row:
    """One row as the last run left it: in a split, or dropped for a reason. `key` names it on the page."""

    key: str
    id: str
    question: str
    answer: str
    split: str
    source: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""
    where: str = ""
    text: str = ""  # of a row that couldn't be read

    def __post_init__(self) -> None:
        self.content = content_of(self.question, self.answer)

    @property
    def file(self) -> str:
        """The file that it comes from, by the name that reports give it."""
        return str(self.source.get("file") or Path(self.where.partition(":")[0]).name)

    @property
    def readable(self) -> bool:
        """Whether there are a question and an answer to decide about."""
        return bool(self.question and self.answer)

    @property
    def acceptable(self) -> bool:
        """Whether it comes in as it is, if a person accepts it."""
        return self.readable and (self.split != DROPPED or self.reason in OVERRULED)


def prepared_rows(folder: Path) -> list[Row]:
    """The rows of all splits, then the dropped ones. Raises UserError if the stage hasn't run."""
    rows = [
        Row("", record["id"], record["messages"][0]["content"], record["messages"][-1]["content"], split,
            record.get("source") or {})
        for split in SPLITS for record in read_jsonl(folder / f"{split}.jsonl")
    ]  # fmt: skip
    for reject in read_jsonl(folder / REJECTS):
        read = reject.get("row") or {}
        rows.append(Row(
            "", str(read.get("id", "")), read.get("question", ""), read.get("answer", ""), DROPPED,
            read.get("source") or {}, reject["reason"], reject["detail"], reject["where"], reject["text"],
        ))  # fmt: skip
    taken: dict[str, int] = {}
    for row in rows:
        row.key = content_of(f"{row.id}\n{row.where}", f"{row.question}\n{row.answer}\n{row.text}")
        taken[row.key] = taken.get(row.key, 0) + 1
        row.key += f"-{taken[row.key]}" if taken[row.key] > 1 else ""  # a model may give one bad response twice
    return rows


class ReviewDesk:
    """The prepared rows and the decisions on them. Rows are read again when the stage has run again."""

    def __init__(self, prepared: Path = PREPARED, decisions: Path = FILE) -> None:
        self.prepared, self.file = prepared, decisions
        self.stamp = (0, 0)
        self.rows: dict[str, Row] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the rows if they are others than before, and the decisions, which another window may have added to."""
        report = self.prepared / "data_report.json"
        if not report.is_file():
            raise UserError(f"{self.prepared}: found no rows, needed what `dvc repro prepare-pdf-qa` writes")
        status = report.stat()
        if (stamp := (status.st_ino, status.st_mtime_ns)) != self.stamp:
            self.rows = {row.key: row for row in prepared_rows(self.prepared)}
            self.stamp = stamp
        self.hold(in_force(read_decisions(self.file)[0]))

    def hold(self, decisions: list[Decision]) -> None:
        """Take these decisions for those in force."""
        self.decisions = decisions
        self.on = {content_of(one.question, one.answer): one.decision for one in decisions}
        self.made = {content_of(one.new_question, one.new_answer) for one in decisions if one.decision == "edit"}

    def state(self, row: Row) -> str:
        """What is decided about a row: accept, edit or reject, or open. A row that an edit made is edited."""
        return self.on.get(row.content) or ("edit" if row.content in self.made and row.split != DROPPED else OPEN)

    def pending(self, row: Row) -> Decision | None:
        """The decision in force on a row's present words."""
        same = (one for one in reversed(self.decisions) if (one.question, one.answer) == (row.question, row.answer))
        return next(same, None)

    def find(self, key: str) -> Row:
        """A row by its key. Raises UserError if it is no longer there."""
        if key not in self.rows:
            raise UserError("found no such row, since the stage has run again; load the page again")
        return self.rows[key]

    def decide(self, row: Row, decision: str, question: str = "", answer: str = "") -> Decision:
        """Keep a decision: accept, edit to `question` and `answer`, or reject.

        Raises UserError for a row that can't be read, an acceptance that a gate would overrule, and an edit without
        text.
        """
        if not row.readable:
            raise UserError(f"{row.where}: {row.reason}: found no question with an answer to decide on; fix the file")
        if decision == "edit" and (question, answer) == (row.question, row.answer):
            decision = "accept"
        if decision == "accept" and not row.acceptable:
            raise UserError(f"{row.reason}: {row.detail}. Accepting can't overrule this; edit the row or fix the file")
        more = {"new_question": question, "new_answer": answer} if decision == "edit" else {}
        line: dict[str, Any] = {"id": uuid.uuid4().hex, "decision": decision, "time": now()}
        line |= {"row": row.id, "question": row.question, "answer": row.answer, **more}
        try:
            kept = Decision.model_validate(line)
        except ValueError:
            raise UserError("found no text, or none that can be read, needed a question and an answer") from None
        append(kept, self.file, "decision")
        self.hold([*self.decisions, kept])
        return kept

    def undo(self) -> Decision | None:
        """Take the last decision in force back, whoever made it; returns it, or None if there is none."""
        self.hold(in_force(read_decisions(self.file)[0]))
        if not self.decisions:
            return None
        *rest, last = self.decisions
        undone = Decision(id=uuid.uuid4().hex, decision="undo", undoes=last.id, row=last.row, time=now())
        append(undone, self.file, "decision")
        self.hold(rest)
        return last

    def row_of(self, decision: Decision) -> Row | None:
        """The row that a decision was made on, if it is still among the rows."""
        words = (decision.question, decision.answer)
        found = [row for row in self.rows.values() if (row.question, row.answer) == words]
        return next((row for row in found if row.id == decision.row), found[0] if found else None)

    def counts(self) -> dict[str, int]:
        """How many rows there are of each state, those aside that nobody can decide about."""
        counts = {"accept": 0, "edit": 0, "reject": 0, OPEN: 0}
        for row in self.rows.values():
            if row.readable:
                counts[self.state(row)] += 1
        return counts


def now() -> str:
    """The time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
