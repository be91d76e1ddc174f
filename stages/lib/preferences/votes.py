"""People's votes on pairs of answers: a verdict as a judge gives it (verdicts.py), and what it was given on.

{"id": "5f0c…", "fact_id": "a81e…", "first": "dpo", "second": "base", "first_characters": 12, "second_characters": 95,
 "verdict": "first", "by": "person", "question": "주차는 얼마인가요?", "first_answer": "…", "second_answer": "…",
 "first_stopped": true, "second_stopped": false, "first_weights_sha256": "13eb…", "second_weights_sha256": "dc02…",
 "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 256, "time": "2026-11-22T03:41:07Z"}

verdict is first, second, tie or both_bad; the first answer stood on the left. fact_id is the same for one question
however it is spaced. graft arena writes them.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from stages.lib.data.comparison import letters
from stages.lib.data.jsonl_reader import Line, Rejected, as_text, read_lines

FILE = "votes.jsonl"


Model = Literal["base", "sft", "dpo", "orpo", "cpo", "simpo", "kto", "rl", "pruned", "healed"]
Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class Vote(BaseModel):
    """One vote, strictly typed."""

    model_config = ConfigDict(strict=True, extra="ignore")

    id: str
    fact_id: str
    first: Model
    second: Model
    first_characters: int
    second_characters: int
    verdict: Literal["first", "second", "tie", "both_bad"]
    by: str
    question: str
    first_answer: str
    second_answer: str
    first_stopped: bool
    second_stopped: bool
    first_weights_sha256: Digest
    second_weights_sha256: Digest
    temperature: float
    top_p: float
    max_new_tokens: int
    time: str
    where: str = Field(default="", exclude=True)  # file and line

    @property
    def better(self) -> str:
        """The answer preferred, if one was."""
        return {"first": self.first_answer, "second": self.second_answer}.get(self.verdict, "")

    @property
    def worse(self) -> str:
        """The answer that another was preferred to."""
        return {"first": self.second_answer, "second": self.first_answer}.get(self.verdict, "")

    def of(self) -> tuple[str, frozenset[str]]:
        """What was voted on: a question and two answers, whichever stood first."""
        return letters(self.question), frozenset((self.first_answer, self.second_answer))


def read_votes(folder: Path) -> list[Vote | Rejected]:
    """Every vote, and every line that is none; an empty list where nobody voted yet."""
    path = folder / FILE
    return [typed(line) for line in read_lines(path)] if path.is_file() else []


def typed(line: Line | Rejected) -> Vote | Rejected:
    """A line as a vote, or rejected for its first wrong value."""
    if isinstance(line, Rejected):
        return line
    try:
        vote = Vote.model_validate(line.value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = "missing_field" if first["type"] == "missing" else "wrong_type"
        detail = f"{'.'.join(map(str, first['loc'])) or 'the line'}: {first['msg']}"
        return Rejected(line.where, reason, detail, as_text(line.value))
    vote.where = line.where
    return vote
