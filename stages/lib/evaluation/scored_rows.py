"""What is scored and what came of it: rows of the prepared sets, preference pairs, and rows of predictions.jsonl.

{"id": "9f1c…", "fact_id": "a81e…", "split": "seen", "model": "dpo", "prompt": "주차는 얼마인가요?",
 "reference": "30분 …", "key": ["30분"], "answerable": true, "prediction": "30분 …", "scores": {"key_exact": 1.0, …},
 "likelihood": {"nats": 3.1, "tokens": 9, "characters": 14}}
"""

from typing import NotRequired, TypedDict

from stages.lib.models.chat_template import Messages


class Record(TypedDict):
    """A row of a prepared set: a question with its answer, a chat, or a pair of answers."""

    id: str
    fact_id: NotRequired[str]
    set: NotRequired[str]  # of a control chat
    # Of a question and of a chat:
    messages: NotRequired[Messages]
    key: NotRequired[list[str]]  # what an answer must hold; empty: what its reference holds
    answerable: NotRequired[bool]
    # Of a pair:
    prompt: NotRequired[Messages]
    chosen: NotRequired[str]
    rejected: NotRequired[str]
    reason: NotRequired[str]  # why the worse answer is worse, where it was sampled


class ScoredRow(TypedDict):
    """One row by one model, with its scores by name."""

    id: str
    fact_id: str
    split: str
    model: str
    prompt: str
    reference: NotRequired[str]
    key: NotRequired[list[str]]
    answerable: NotRequired[bool]
    prediction: NotRequired[str]
    scores: dict[str, float]
    likelihood: NotRequired[dict[str, float]]
