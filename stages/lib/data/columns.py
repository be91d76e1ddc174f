"""Which column of a file holds what: by the names that people use, or as a setting says.

columns: {faq.csv: {문의: question, 회신: answer, 분류: ignore}}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stages.lib.schema.choices import Column

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES: dict[Column, tuple[str, ...]] = {
    Column.question: ("instruction", "question", "prompt", "query", "질문", "물음", "문의"),
    Column.input: ("input", "context", "입력", "지문"),
    Column.answer: ("output", "answer", "response", "completion", "answers", "답변", "답", "응답"),
    Column.id: ("id",),
    Column.fact_id: ("fact_id",),
    Column.key: ("key",),
    Column.answerable: ("answerable",),
    Column.source: ("source",),
    Column.system: ("system", "system_prompt"),
    Column.messages: ("messages", "conversations", "conversation", "dialogue", "dialog", "대화"),
    Column.history: ("history",),
    Column.prompt_id: ("prompt_id",),
    Column.role: ("role", "from", "speaker"),
    Column.content: ("content", "value", "text", "utterance"),
    Column.chosen: ("chosen",),
    Column.rejected: ("rejected",),
    Column.chosen_score: ("chosen_score", "score_chosen", "chosen-rating", "chosen_rating"),
    Column.rejected_score: ("rejected_score", "score_rejected", "rejected-rating", "rejected_rating"),
    Column.status: ("status",),
    Column.in_gsm8k_train: ("in_gsm8k_train",),
    Column.text: ("text", "본문"),
}
"""The names that a column may have, in lower case, the first one found counting."""

NOT_READ = frozenset({
    "id", "idx", "index", "uid", "uuid", "no", "no.", "number", "번호", "순번", "연번", "source", "dataset",
    "data_source", "subset", "split", "category", "분류", "lang", "language", "model", "model_name", "generator",
    "license", "url", "link", "date", "created", "created_at", "timestamp", "meta", "metadata", "tags", "task", "type",
    "topic", "annotator", "reviewer", "is_impossible", "answer_start",
})  # fmt: skip
"""Columns about a row, which say nothing to a model: they are passed over, and the data card names them."""
ABOUT_SQUAD = frozenset({"title"})
ABOUT_TEXT = frozenset({"title", "dump", "file_path", "language_score", "token_count", "score", "int_score"})
ABOUT_ORCA = frozenset({
    "generations", "order", "labelling_model", "labelling_prompt", "raw_labelling_response", "rating", "rationale",
    "original_chosen", "original_rejected", "fact_id", "defect",
})  # fmt: skip
ABOUT_ULTRAFEEDBACK = frozenset({
    "prompt_id", "messages", "models", "correct_answers", "incorrect_answers", "chosen-model", "rejected-model",
    "chosen_model", "rejected_model", "margin",
})  # fmt: skip
ABOUT_PAIRS = ABOUT_ORCA | ABOUT_ULTRAFEEDBACK
TEXT_PARTS = {"text", "input_text", "output_text"}
"""Kinds of content parts that are texts, in OpenAI's two interfaces."""
LISTED = {Column.key, Column.messages, Column.history, Column.source}
"""Fields that a table's cell holds as JSON."""
NUMBERED = {Column.chosen_score, Column.rejected_score}
TRUTHS = {Column.answerable, Column.in_gsm8k_train}


class Unfit(ValueError):
    """Reason code and detail of what makes a row unfit."""


@dataclass
class Reading:
    """How a file's columns are read: what the setting says, and what was found in it so far."""

    asked: dict[str, Column] = field(default_factory=dict)  # by column; of others the names decide
    setting: str = "columns"  # how an error spells it
    file: str = ""  # the path, as a row's place begins
    label: str = ""  # what reports and rows call it
    read: dict[str, Column] = field(default_factory=dict)
    passed_over: set[str] = field(default_factory=set)
    plans: dict[tuple[Any, ...], tuple[dict[Column, str], list[str]]] = field(default_factory=dict)

    def plan(self, row: dict[str, object], wanted: tuple[Column, ...]) -> tuple[dict[Column, str], list[str]]:
        """The column of each field wanted that the row has, and the columns that are left; the same for equal keys."""
        keys = (id(wanted), *row)  # `wanted` is one of a few constants
        if keys not in self.plans:
            found: dict[Column, str] = {}
            for key in row:
                if (asked := self.asked.get(key)) and asked is not Column.ignore:
                    found[asked] = key
            plain = {key.strip().casefold(): key for key in reversed(row) if key not in self.asked}
            for name in wanted:
                if name not in found and (column := next((plain[n] for n in NAMES[name] if n in plain), None)):
                    found[name] = column
            left = [key for key in row if key not in found.values() and self.asked.get(key) is not Column.ignore]
            self.plans[keys] = found, left
        return self.plans[keys]

    def refuse_unread(self, row: Mapping[str, object], left: list[str], about: frozenset[str], said: list[str]) -> None:
        """Raise Unfit for a column that holds something which nothing reads.

        `about` are names of columns about the row; Alpaca's `text`, which repeats all of `said`, is no loss.
        """
        for key in left:
            value = row[key]
            if blank(value):
                continue
            name = key.strip().casefold()
            if name in about:
                continue
            if name in NOT_READ:
                self.passed_over.add(key)
            elif not (name == "text" and isinstance(value, str) and said and all(text in value for text in said)):
                shown = json.dumps(value, ensure_ascii=False, default=str)[:60]
                raise Unfit("unread_field", f"{key!r} holds {shown} and nothing reads it; say what it is, or ignore, "
                            f"in {self.setting}, e.g. {{{key}: ignore}}")  # fmt: skip

    def note(self, plan: dict[Column, str]) -> None:
        """Remember which columns were read as what."""
        for name, column in plan.items():
            self.read.setdefault(column, name)

    def summary(self, usual: Iterable[str]) -> str:
        """What was read as what and what was passed over, or an empty text if all of it is `usual`."""
        parts = []
        if not set(self.read) <= set(usual) or self.asked:
            parts.append("read " + ", ".join(f"{column} as {name.value}" for column, name in self.read.items()))
        if self.passed_over:
            parts.append(f"passed over {', '.join(sorted(self.passed_over))}")
        return "; ".join(parts)


def named_columns(columns: dict[str, str]) -> dict[str, Column]:
    """A setting's columns as Reading has them."""
    return {column: Column(name) for column, name in columns.items()}


def blank(value: object) -> bool:
    """Whether a value says nothing."""
    return value is None or value is False or (isinstance(value, str | list | dict) and not value) or (
        isinstance(value, str) and not value.strip()
    )  # fmt: skip


def cell_value(name: Column, value: object) -> Any:
    """A table's text cell as the value that its field holds: a number, a truth, a list; left as it is if it isn't."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if name in LISTED | NUMBERED | TRUTHS and not text:
        return None
    if name in TRUTHS:
        return {"true": True, "false": False, "1": True, "0": False}.get(text.casefold(), value)
    if name in NUMBERED:
        try:
            return float(text)
        except ValueError:
            return value
    if name in LISTED or text.startswith("[{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return [text] if name is Column.key else value
    return value


def content_text(value: object) -> Any:
    """The text of a message's content: a list of text parts is joined. Raises Unfit for a part that is none.

    [{"type": "text", "text": "여권은 어디서 받나요?"}]
    """
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        return value
    texts = []
    for part in value:
        kind, text = part.get("type", "text"), part.get("text")
        if kind not in TEXT_PARTS or not isinstance(text, str):
            raise Unfit("unread_field", f"a part of a message's content is {kind!r}, needed texts alone")
        texts.append(text)
    return "".join(texts)
