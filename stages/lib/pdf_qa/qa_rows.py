"""One row of Q&A through the gates that need no other row: fields, characters, clarity.

{"instruction": "여권과로 거는 전화번호는?", "output": "여권과 전화번호는 099-731-5913입니다.", "id": "phone-2",
 "fact_id": "phone-passport", "key": ["099-731-5913"], "answerable": true, "source": {"file": "guide.pdf", "page": 3}}
Only instruction and output are needed, under whatever names the settings give.
"""

import json
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.lib.data.characters import mend
from stages.lib.data.comparison import hash_of, letters
from stages.lib.data.jsonl_reader import Line, Rejected
from stages.lib.models.chat_template import Messages
from stages.lib.pdf_qa.clarity import personal_data, unclear

UNREADABLE = ("invalid_json", "duplicate_key", "invalid_unicode", "line_too_long", "missing_field", "wrong_type",
              "blank_field", "mojibake")  # fmt: skip
UNCLEAR = ("question_too_short", "dangling_reference", "no_predicate", "answer_repeats_question", "answer_is_refusal",
           "answer_truncated", "language", "pii")  # fmt: skip


class Fields(BaseModel):
    """The fields of a row, strictly typed; others are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore")

    instruction: str
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
    id: str
    fact_id: str
    fact_given: bool
    question: str
    answer: str
    key: list[str]
    answerable: bool
    source: dict[str, Any]
    mended: list[str] = field(default_factory=list)
    personal_data: list[str] = field(default_factory=list)

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


def admit(line: Line, question_field: str, answer_field: str, drop_personal_data: bool) -> Question | Rejected:
    """Check one JSON value and mend its texts."""
    text = json.dumps(line.value, ensure_ascii=False)
    fields = typed(line, question_field, answer_field)
    if isinstance(fields, str):
        reason, _, detail = fields.partition(": ")
        return Rejected(line.where, reason, detail, text)
    mended = {"question": mend(fields.instruction), "answer": mend(fields.output)}
    for name, result in mended.items():
        if result.unreadable:
            return Rejected(line.where, "mojibake", f"{name}: {result.unreadable}", text)
        if not result.text:
            found = question_field if name == "question" else answer_field
            return Rejected(line.where, "blank_field", f"{found!r} holds no visible text", text)
    question, answer = mended["question"].text, mended["answer"].text
    answerable = fields.answerable is not False
    reason, detail = unclear(question, answer, answerable)
    kinds = personal_data(question + "\n" + answer)
    if not reason and drop_personal_data and kinds:
        reason, detail = "pii", ", ".join(kinds)
    if reason:
        return Rejected(line.where, reason, detail, text)
    path, _, number = line.where.rpartition(":")
    identity = str(fields.id) if fields.id is not None else f"{PurePath(path).name}:{number}"
    return Question(
        where=line.where,
        id=identity,
        # without one a row is its own fact, named by what it asks: ids of two files may be equal, and lines move
        fact_id=str(fields.fact_id) if fields.fact_id is not None else f"{hash_of(letters(question)) % 2**64:016x}",
        fact_given=fields.fact_id is not None,
        question=question,
        answer=answer,
        key=[mend(part).text for part in fields.key or []],
        answerable=answerable,
        source=fields.source or {"file": PurePath(path).name, "line": int(number)},
        mended=sorted({*mended["question"].done, *mended["answer"].done}),
        personal_data=kinds,
    )


def typed(line: Line, question_field: str, answer_field: str) -> Fields | str:
    """The row's fields, or `reason: detail` of what is wrong with them."""
    if not isinstance(line.value, dict):
        return f"wrong_type: found a {type(line.value).__name__}, needed an object in braces"
    settings = {question_field: "prepare_pdf_qa.question_field", answer_field: "prepare_pdf_qa.answer_field"}
    for name, setting in settings.items():
        if name not in line.value:
            return f"missing_field: found keys {sorted(line.value)}, needed {name!r}; {setting} says which key to read"
    try:
        return Fields.model_validate({
            **line.value, "instruction": line.value[question_field], "output": line.value[answer_field]
        })  # fmt: skip
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = {"instruction": question_field, "output": answer_field}.get(str(first["loc"][0]), str(first["loc"][0]))
        return f"wrong_type: {name!r} is a {type(first['input']).__name__}: {first['msg']}"
