"""One row of Q&A through the gates that need no other row: fields, characters, clarity.

{"instruction": "여권과로 거는 전화번호는?", "output": "여권과 전화번호는 099-731-5913입니다.", "id": "phone-2",
 "fact_id": "phone-passport", "key": ["099-731-5913"], "answerable": true, "source": {"file": "guide.pdf", "page": 3}}
Only instruction and output are needed; shapes.py has the other names and shapes that rows are read in.
"""

import json
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.lib.data.characters import fix
from stages.lib.data.columns import Reading, Unfit
from stages.lib.data.comparison import hash_of, letters
from stages.lib.data.jsonl_reader import Line, Rejected
from stages.lib.data.shapes import as_question, with_input
from stages.lib.models.chat_template import Messages
from stages.lib.pdf_qa.clarity import personal_data, unclear

UNREADABLE = ("invalid_json", "duplicate_key", "invalid_unicode", "invalid_row", "line_too_long", "missing_field",
              "unread_field", "not_one_question", "wrong_type", "blank_field", "mojibake")  # fmt: skip
NO_ANSWER = ("no_answer",)
"""Questions that a source asks and says to have no answer: nobody's fault, and nothing to learn."""
USUAL = ("instruction", "output", "id", "fact_id", "key", "answerable", "source")
"""The names that a file's columns have where nothing needs to be said about them."""
UNCLEAR = ("question_too_short", "dangling_reference", "no_predicate", "answer_repeats_question", "answer_is_refusal",
           "answer_truncated", "language", "pii")  # fmt: skip


class Fields(BaseModel):
    """The fields of a row, strictly typed."""

    model_config = ConfigDict(strict=True, extra="forbid")

    instruction: str
    input: str
    output: str
    id: str | int | None = None
    fact_id: str | int | None = None
    key: list[str] | None = None
    answerable: bool | None = None
    source: dict[str, Any] | None = None


@dataclass
class Question:
    """One admitted pair. `fact_given` says that the source names the fact; else the row is its own fact."""

    where: str
    file: str
    id: str
    fact_id: str
    fact_given: bool
    group: str  # of rows that are all trained on or all held out; mostly the fact alone
    question: str
    answer: str
    key: list[str]
    answerable: bool
    source: dict[str, Any]
    fixed: list[str] = field(default_factory=list)
    personal_data: list[str] = field(default_factory=list)
    review: str = ""  # accept or edit, if a person decided so
    gate: Rejected | None = None  # why it is dropped unless a person lets it in

    def conversations(self) -> list[Messages]:
        """What training makes of the row."""
        return [[{"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}]]

    def record(self) -> dict[str, Any]:
        """The record that training and evaluation read."""
        return {
            "id": self.id,
            "fact_id": self.fact_id,
            "messages": self.conversations()[0],
            "key": self.key,
            "answerable": self.answerable,
            "source": self.source,
        }

    def dropped(self, reason: str, detail: str, text: str = "") -> Rejected:
        """The row as it goes into rejects.jsonl: to be read again, and decided about, by people."""
        row: dict[str, Any] = {"id": self.id, "question": self.question, "answer": self.answer, "source": self.source}
        row |= {"review": self.review} if self.review else {}
        return Rejected(self.where, reason, detail, text or f"{self.question}\n{self.answer}", row)

    def decided(self, decision: str, question: str, answer: str) -> "Question":
        """The row as a person accepted or edited it. It stays the same fact, of which it keeps what it still says."""
        return replace(
            self, question=question, answer=answer, review=decision, source={**self.source, "review": decision},
            key=[part for part in self.key if decision == "accept" or part in answer],
            personal_data=personal_data(f"{question}\n{answer}"), gate=None,
        )  # fmt: skip


def admit(line: Line, reading: Reading) -> Question | Rejected:
    """A value of any shape with its texts fixed, and with the gate that stops it, if one does; or why it is no row."""
    text = json.dumps(line.value, ensure_ascii=False, default=str)
    try:
        fields = Fields.model_validate(as_question(line, reading))
    except Unfit as unfit:
        reason, detail = unfit.args
        return Rejected(line.where, reason, detail, text)
    except ValidationError as error:
        return Rejected(line.where, "wrong_type", type_error(error, line, reading), text)
    fixed = {"question": fix(fields.instruction), "input": fix(fields.input), "answer": fix(fields.output)}
    for name, result in fixed.items():
        if result.unreadable:
            return Rejected(line.where, "mojibake", f"{name}: {result.unreadable}", text)
        if not result.text and name != "input":
            return Rejected(line.where, "blank_field", f"the {name} holds no visible text", text)
    question, answer = fixed["question"].text, fixed["answer"].text
    answerable = fields.answerable is not False
    reason, detail = unclear(question, answer, answerable)
    question = with_input(question, fixed["input"].text)
    path, _, number = line.where.rpartition(":")
    name = reading.label + path.removeprefix(reading.file)
    identity = str(fields.id) if fields.id is not None else f"{name}:{number}"
    # pages that a model wrote questions about; whether two are about one thing isn't known
    group = str((fields.source or {}).get("group") or "")
    row = Question(
        where=line.where,
        file=reading.label,
        id=identity,
        # without one a row is its own fact, named by what it asks: ids of two files may be equal, and lines move
        fact_id=str(fields.fact_id) if fields.fact_id is not None else f"{hash_of(letters(question)) % 2**64:016x}",
        fact_given=fields.fact_id is not None and not group,
        group=group,
        question=question,
        answer=answer,
        key=[fix(part).text for part in fields.key or []],
        answerable=answerable,
        source=fields.source or {"file": name, "line": int(number)},
        fixed=sorted({step for result in fixed.values() for step in result.done}),
        personal_data=personal_data(question + "\n" + answer),
    )
    row.gate = row.dropped(reason, detail, text) if reason else None
    return row


def type_error(error: ValidationError, line: Line, reading: Reading) -> str:
    """The first wrong type in a row, by the name of its column."""
    first = error.errors(include_url=False)[0]
    field = {"instruction": "question", "output": "answer"}.get(str(first["loc"][0]), str(first["loc"][0]))
    columns = [column for column, name in reading.read.items() if name.value == field and column in line.value]
    return f"{(columns or [field])[0]!r} is a {type(first['input']).__name__}: {first['msg']}"
