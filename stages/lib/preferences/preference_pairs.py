"""Pairs of a better and a worse answer, checked, and the notebook's filter.

{"system": "", "input": "주차는 얼마인가요?", "chosen": "처음 55분은 무료입니다.", "rejected": "비쌉니다.",
 "status": "unchanged", "chosen_score": 10.0, "in_gsm8k_train": false, …}
Only input, chosen and rejected are needed where pairs aren't rated (min_chosen_score 0). shapes.py has the other shapes
that pairs are read in.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.lib.data.characters import fix
from stages.lib.data.columns import Reading, Unfit
from stages.lib.data.comparison import hash_of, letters
from stages.lib.data.jsonl_reader import Line, Rejected, as_text
from stages.lib.data.ledger import Ledger
from stages.lib.data.rows import load_rows
from stages.lib.data.shapes import as_pair
from stages.lib.models.chat_template import UNFIT, Messages
from stages.lib.schema.choices import PairSource
from stages.lib.schema.data import PreparePreferences

USUAL = ("system", "input", "chosen", "rejected", "chosen_score", "status", "in_gsm8k_train")
"""The names that the columns have where nothing needs to be said about them."""
FILTERED = ("tie", "no_score", "low_score", "in_gsm8k_train")
DEFECTIVE = (*UNFIT, "invalid_json", "duplicate_key", "invalid_unicode", "invalid_row", "line_too_long",
             "missing_field", "unread_field", "wrong_type", "mojibake", "blank_content", "equal_answers",
             "prompt_differs", "turns_do_not_alternate", "more_than_an_answer")  # fmt: skip

R = TypeVar("R")


class Turn(BaseModel):
    """A message before the question."""

    model_config = ConfigDict(strict=True, extra="forbid")

    role: str
    content: str


class Columns(BaseModel):
    """What a pair holds, strictly typed."""

    model_config = ConfigDict(strict=True, extra="forbid")

    input: str
    chosen: str
    rejected: str
    system: str | None = None
    status: str | None = None
    chosen_score: float | None = None
    in_gsm8k_train: bool | None = None
    history: list[Turn] = []


@dataclass
class Pair:
    """One admitted pair."""

    where: str
    system: str
    question: str
    chosen: str
    rejected: str
    fixed: list[str]
    history: list[dict[str, str]] = field(default_factory=list)  # questions and answers before the question
    vote: str = ""  # the vote that made the pair: people compare more than two answers to one question
    prompt: Messages = field(default_factory=list)  # all before the answer, in the form that the template takes

    def __post_init__(self) -> None:
        system = [{"role": "system", "content": self.system}] if self.system else []
        self.prompt = [*system, *self.history, {"role": "user", "content": self.question}]

    def conversations(self) -> list[Messages]:
        """What training makes of the row: the prompt with either answer."""
        return [[*self.prompt, {"role": "assistant", "content": text}] for text in (self.chosen, self.rejected)]

    def dropped(self, reason: str, detail: str, text: str) -> Rejected:
        """The row as it goes into rejects.jsonl."""
        return Rejected(self.where, reason, detail, text)

    def identity(self) -> str:
        """What the pair asks, system message included, for comparison."""
        earlier = "".join(message["content"] for message in self.history)
        return letters(self.system + earlier + self.question) + self.vote

    def record(self) -> dict[str, Any]:
        """The record that DPO reads."""
        return {
            "id": hashlib.sha256(self.identity().encode()).hexdigest()[:16],
            "source": (PairSource.votes if self.vote else PairSource.rows).value,
            "prompt": self.prompt,
            "chosen": self.chosen,
            "rejected": self.rejected,
        }


def admit_pair(line: Line, min_chosen_score: float, reading: Reading | None = None) -> Pair | Rejected:
    """Check one value: the notebook's filter first (ties, scores, GSM8K), then the defects of the real set."""
    text = as_text(line.value)
    try:
        columns = as_pair(line, reading or Reading())
        row = Columns.model_validate(columns)
    except Unfit as unfit:
        reason, detail = unfit.args
        return Rejected(line.where, reason, detail, text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        detail = f"{first['loc'][0]!r} is a {type(first['input']).__name__}: {first['msg']}"
        return Rejected(line.where, "wrong_type", detail, text)
    if reason := filtered(row, "chosen_score" in columns, min_chosen_score):
        return Rejected(line.where, reason, f"status {row.status}, chosen_score {row.chosen_score}", text)
    fixed = {
        name: fix(value or "")
        for name, value in row.model_dump(include={"system", "input", "chosen", "rejected"}).items()
    }
    fixed |= {f"history {number}": fix(turn.content) for number, turn in enumerate(row.history)}
    for name, result in fixed.items():
        if result.unreadable:
            return Rejected(line.where, "mojibake", f"{name}: {result.unreadable}", text)
        if not result.text and name != "system":
            return Rejected(line.where, "blank_content", f"{name} holds no visible text", text)
    system, question, chosen, rejected = (fixed[name].text for name in ("system", "input", "chosen", "rejected"))
    if chosen == rejected:
        return Rejected(line.where, "equal_answers", "chosen and rejected are the same", text)
    done = sorted({step for result in fixed.values() for step in result.done})
    history = [
        {"role": turn.role, "content": fixed[f"history {number}"].text} for number, turn in enumerate(row.history)
    ]
    return Pair(line.where, system, question, chosen, rejected, done, history)


def filtered(row: Columns, rated: bool, min_chosen_score: float) -> str:
    """The reason why the notebook's filter leaves a pair out, or an empty string."""
    if row.status == "tie":
        return "tie"
    if row.chosen_score is None and (rated or min_chosen_score > 0):
        return "no_score"
    if row.chosen_score is not None and row.chosen_score < min_chosen_score:
        return "low_score"
    return "in_gsm8k_train" if row.in_gsm8k_train else ""


def sound_pairs(section: PreparePreferences, reading: Reading, ledger: Ledger) -> Iterator[Pair]:
    """Yield the pairs that pass the filter and have no defect, each question once; count all."""
    seen: set[int] = set()
    lines = load_rows(section.rows) if PairSource.rows in section.sources else iter(())
    pairs = (
        line if isinstance(line, Rejected) else admit_pair(line, section.min_chosen_score, reading) for line in lines
    )
    for pair in accounted(pairs, ledger):
        if (identity := hash_of(pair.identity())) in seen:
            ledger.reject(Rejected(pair.where, "duplicate_prompt", pair.question[:80], pair.question))
        else:
            seen.add(identity)
            yield pair


def accounted(rows: Iterable[R | Rejected], ledger: Ledger) -> Iterator[R]:
    """Yield the pairs, or whatever rows they are; count all and write down the rejected."""
    for row in rows:
        ledger.read += 1
        if isinstance(row, Rejected):
            ledger.reject(row)
        else:
            yield row
