"""People's votes on single answers, for KTO: a thumb up or down, with no other answer beside it.

{"prompt": "주차는 얼마인가요?", "completion": "처음 55분은 무료입니다.", "label": true}

trl's unpaired preference format, where prompt and completion may be messages too. Beside it `stopped`, false for an
answer that was truncated; other keys, such as who voted and when, are passed over.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.lib.data.characters import fix
from stages.lib.data.comparison import letters
from stages.lib.data.jsonl_reader import Line, Rejected, as_text, read_lines
from stages.lib.data.near_duplicates import KnownQuestions
from stages.lib.models.chat_template import Messages
from stages.lib.schema.choices import PairSource

FILE = "unpaired.jsonl"
UNUSED_ALONE = ("vote_on_held_out_pair",)
"""Why a vote on one answer isn't used, beside what holds of votes on two (voted_pairs.UNUSED)."""


class Turn(BaseModel):
    """A message."""

    model_config = ConfigDict(strict=True, extra="ignore")

    role: Literal["system", "user", "assistant"]
    content: str


class Columns(BaseModel):
    """What a line holds, strictly typed."""

    model_config = ConfigDict(strict=True, extra="ignore")

    prompt: str | list[Turn]
    completion: str | list[Turn]
    label: bool
    stopped: bool = True


@dataclass
class Judged:
    """One admitted vote: an answer, and whether somebody likes it."""

    where: str
    prompt: Messages
    completion: str
    label: bool
    stopped: bool
    fixed: list[str] = field(default_factory=list)

    @property
    def question(self) -> str:
        """What is asked last."""
        return self.prompt[-1]["content"]

    def identity(self) -> tuple[str, str]:
        """What was voted on, for comparison."""
        return letters("".join(message["content"] for message in self.prompt)), letters(self.completion)

    def conversations(self) -> list[Messages]:
        """What training makes of the row."""
        return [[*self.prompt, {"role": "assistant", "content": self.completion}]]

    def dropped(self, reason: str, detail: str, text: str) -> Rejected:
        """The row as it goes into rejects.jsonl."""
        return Rejected(self.where, reason, detail, text)

    def record(self) -> dict[str, Any]:
        """The record that KTO reads."""
        digest = hashlib.sha256("\n".join(self.identity()).encode()).hexdigest()[:16]
        return {"id": digest, "source": PairSource.votes.value, "prompt": self.prompt, "completion": self.completion,
                "label": self.label}  # fmt: skip


def read_unpaired(folder: Path) -> list[Judged | Rejected]:
    """Every vote on one answer, and every line that is none; an empty list where there is no file of them."""
    path = folder / FILE
    return [admit(line) for line in read_lines(path)] if path.is_file() else []


def admit(line: Line | Rejected) -> Judged | Rejected:
    """A line as a vote, or rejected for its first defect."""
    if isinstance(line, Rejected):
        return line
    text = as_text(line.value)
    try:
        row = Columns.model_validate(line.value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = "missing_field" if first["type"] == "missing" else "wrong_type"
        detail = f"{'.'.join(map(str, first['loc'])) or 'the line'}: {first['msg']}"
        return Rejected(line.where, reason, detail, text)
    prompt = [Turn(role="user", content=row.prompt)] if isinstance(row.prompt, str) else row.prompt
    answer = [Turn(role="assistant", content=row.completion)] if isinstance(row.completion, str) else row.completion
    if [turn.role for turn in answer] != ["assistant"]:
        return Rejected(line.where, "more_than_an_answer", "completion needs one message, the assistant's", text)
    spoken = [turn.role for turn in prompt if turn.role != "system" or turn is not prompt[0]]
    if len(spoken) % 2 == 0 or spoken != (["user", "assistant"] * len(spoken))[: len(spoken)]:
        return Rejected(line.where, "turns_do_not_alternate", "prompt needs questions and answers in turn, a question "
                        "last", text)  # fmt: skip
    results = [fix(turn.content) for turn in [*prompt, *answer]]
    for result in results:
        if result.unreadable:
            return Rejected(line.where, "mojibake", result.unreadable, text)
        if not result.text:
            return Rejected(line.where, "blank_content", "a message holds no visible text", text)
    messages: Messages = [
        {"role": turn.role, "content": result.text} for turn, result in zip(prompt, results, strict=False)
    ]
    done = sorted({step for result in results for step in result.done})
    return Judged(line.where, messages, results[-1].text, row.label, row.stopped, done)


def judged_alone(
    votes: list[Judged | Rejected], asked: KnownQuestions, held_out: set[str]
) -> Iterator[Judged | Rejected]:
    """Yield the votes that KTO may learn from, and a reject for each other one.

    As with votes on two answers: who contradicts each other on one answer teaches nothing, who agrees teaches it once,
    a truncated answer that is liked would be learned with a stop token in the middle of a sentence, and what the
    evaluation asks (`asked`), or a pair that is held out for it (`held_out`, by its letters), is left out.
    """
    labels = defaultdict(set)
    for vote in votes:
        if isinstance(vote, Judged):
            labels[vote.identity()].add(vote.label)
    seen = set()
    for vote in votes:
        if isinstance(vote, Rejected):
            yield vote
            continue
        reason, detail = "", ""
        if len(labels[vote.identity()]) > 1:
            reason, detail = "vote_conflicting", "other votes on the same answer say the opposite"
        elif known := asked.find(vote.question):
            reason, detail = "vote_on_evaluation_question", f"{vote.question[:60]} = {known}"
        elif letters(vote.question) in held_out:
            reason, detail = "vote_on_held_out_pair", vote.question[:60]
        elif vote.label and not vote.stopped:
            reason, detail = "vote_for_cut_answer", "the answer was truncated"
        elif vote.identity() in seen:
            reason, detail = "duplicate_vote", "the same vote stands above"
        seen.add(vote.identity())
        yield vote.dropped(reason, detail, as_text(vote.record())) if reason else vote
