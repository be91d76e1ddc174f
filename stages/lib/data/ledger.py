"""The account of a data stage: every row read is kept or is in rejects.jsonl under one reason.

rejects.jsonl: {"where": "faq.jsonl:12", "reason": "duplicate_key", "detail": "['output'] stands …", "text": "{…"}
A question that could be read has its `row` there too, whole, so that people can look at it (graft review).
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from stages.lib.data.jsonl_reader import Rejected
from stages.lib.every_stage.errors import UserError

REJECTS = "rejects.jsonl"
FOLDED = "folded"
"""The count, among what was fixed, of system messages put in front of the first question."""
SHOWN = 5
"""Rejects that a message shows."""
TEXT_KEPT = 2000
"""Characters of a rejected row that rejects.jsonl shows."""


class Ledger:
    """Counts rows read, dropped by reason, fixed and reported, and writes each reject as it comes.

    `steps` are the stage's gates in order, each with the reasons it drops for: the funnel's bars. A reason of no step
    raises KeyError, so that no plot hides one. `rejects` is the name of the file of rejects in `directory`.
    """

    def __init__(self, directory: Path, steps: dict[str, tuple[str, ...]], rejects: str = REJECTS) -> None:
        self.steps = steps
        self.step_of = {reason: step for step, reasons in steps.items() for reason in reasons}
        self.read = 0
        self.dropped: Counter[str] = Counter()
        self.fixed: Counter[str] = Counter()
        self.reported: Counter[str] = Counter()
        self.overruled: list[str] = []  # what a person had accepted (row["review"]) and a gate stopped all the same
        self.first: list[tuple[str, str]] = []  # the first rejects of each reason: reason, and what is told of it
        self.file = (directory / rejects).open("w", encoding="utf-8")

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()

    def reject(self, row: Rejected) -> None:
        """Count one row as dropped and write it to rejects.jsonl."""
        self.step_of[row.reason]
        self.dropped[row.reason] += 1
        if self.dropped[row.reason] <= SHOWN:
            self.first.append((row.reason, f"{row.where}: {row.reason}: {row.detail}"))
        if row.row and row.row.get("review"):
            self.overruled.append(f"{row.row['id']} ({row.reason}: {row.detail})")
        record: dict[str, Any] = {"where": row.where, "reason": row.reason, "detail": row.detail,
                                  "text": row.text.strip()[:TEXT_KEPT]}  # fmt: skip
        record |= {"row": row.row} if row.row else {}
        self.file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def refuse_many(self, reasons: Iterable[str], most: float, setting: str) -> None:
        """Raise UserError if more than the share `most` of the rows read was dropped for one of `reasons`."""
        asked = set(reasons)
        count = sum(self.dropped[reason] for reason in asked)
        if count > most * self.read:
            raise UserError(
                f"{count} of {self.read} rows are rejected, more than {setting} = {most} allows. The first:\n  "
                + "\n  ".join([line for reason, line in self.first if reason in asked][:SHOWN])
                + f"\nMend them, or raise {setting}; then {REJECTS} lists them all"
            )

    def refuse_nothing_left(self, to_train: int, remedy: str) -> None:
        """Raise UserError, ending in `remedy`, if no row is left to train on."""
        if not to_train:
            dropped = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common()) or "none"
            held_out = self.read - self.dropped.total()
            raise UserError(
                f"found no row to train on, needed one: {self.read} read, {held_out} held out for evaluation, dropped: "
                f"{dropped}" + "".join(f"\n  {line}" for _, line in self.first[:SHOWN]) + f"\n{remedy}"
            )

    def balance(self, kept: int) -> dict[str, Any]:
        """The counts. Raises ArithmeticError unless read == kept + dropped: a row was lost or counted twice."""
        if self.read != kept + self.dropped.total():
            raise ArithmeticError(f"read {self.read} rows, kept {kept} and dropped {self.dropped.total()}")
        return {
            "in": self.read,
            "kept": kept,
            "dropped": dict(sorted(self.dropped.items())),
            "fixed": dict(sorted(self.fixed.items())),
            "reported": dict(sorted(self.reported.items())),
        }

    def funnel(self) -> list[tuple[str, int]]:
        """Rows left after each step, the first bar being all rows read."""
        left, bars = self.read, [("read", self.read)]
        for step, reasons in self.steps.items():
            left -= sum(self.dropped[reason] for reason in reasons)
            bars.append((step, left))
        return bars
