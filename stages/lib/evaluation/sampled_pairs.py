"""Preference pairs from a tuned model's own answers: what it says wrongly now and then, beside what it was taught.

{"id": "b81f…", "fact_id": "address-head-office", "prompt": [{"role": "user", "content": "달여울시민청 도로명주소는?"}],
 "chosen": "달여울시민청 주소는 달여울시 초롱돌로 417, 6층입니다.", "rejected": "초롱돌로 47, 6층입니다.",
 "reason": "wrong_fact"}

SFT shows a model what to say and never what not to. Its answers drawn at temperature 1 are verified by the key facts of
the trained ones: those that state another fact, make one up where there is none, or refuse what could be answered are
rejected, and the trained answer is chosen.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from stages.lib.data.comparison import letters
from stages.lib.evaluation.generation import Answer
from stages.lib.evaluation.key_facts import key_exact, key_of, plain
from stages.lib.evaluation.scored_rows import Record
from stages.lib.evaluation.text_scores import refusal
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import share_of
from stages.lib.models.chat import encode_answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Verdict(Enum):
    """What an answer is, beside the trained one."""

    right = "right"  # it states the key facts, or refuses where there is no answer
    wrong_fact = "wrong_fact"
    made_up = "made_up"  # an answer to what can't be answered
    refused = "refused"  # no answer to what can be
    unstopped = "unstopped"  # truncated at the most tokens: nobody knows what would have followed
    empty = "empty"
    unfit = "unfit"  # the chat template can't hold it as it is


REJECTED = (Verdict.wrong_fact, Verdict.made_up, Verdict.refused)
"""Answers that become the worse ones of pairs."""


def verdict_of(record: Record, answer: Answer, tokenizer: PreTrainedTokenizerBase) -> Verdict:
    """What a model's `answer` to a trained question is; `record` is the row that was trained on."""
    if not answer.stopped:
        return Verdict.unstopped
    if not answer.text:
        return Verdict.empty
    refuses = bool(refusal(answer.text))
    if not record["answerable"]:
        verdict = Verdict.right if refuses else Verdict.made_up
    elif key_exact(keys_of(record), answer.text):
        verdict = Verdict.right
    else:
        verdict = Verdict.refused if refuses else Verdict.wrong_fact
    if verdict in REJECTED:
        try:
            encode_answer(tokenizer, record["messages"][:-1], answer.text)
        except UserError:
            return Verdict.unfit
    return verdict


def keys_of(record: Record) -> list[str]:
    """The key strings that an answer to a trained question must hold: its own, or those of its reference."""
    return record["key"] or key_of(record["messages"][-1]["content"])


def verifiable(record: Record) -> bool:
    """Whether answers to a trained question can be told right from wrong.

    Not where its answer holds no number, date, Latin word or quoted name: any other wording of it would be wrong.
    """
    reference = record["messages"][-1]["content"]
    return not record["answerable"] or keys_of(record) != [plain(reference)]


@dataclass
class Pairs:
    """The pairs of a run, and what became of all questions and answers."""

    records: list[Record] = field(default_factory=list)
    samples: list[dict[str, str]] = field(default_factory=list)  # every answer with its verdict
    answers: Counter[str] = field(default_factory=Counter)  # by verdict
    without_wrong: int = 0  # questions, none of whose answers can be rejected
    left_out: Counter[str] = field(default_factory=Counter)  # rejected answers that make no pair, by why

    def reasons(self) -> dict[str, int]:
        """How many pairs there are by why their worse answer is worse."""
        return {verdict.value: sum(pair["reason"] == verdict.value for pair in self.records) for verdict in REJECTED}


def pairs_of(
    records: list[Record], answers: list[list[Answer]], most: int, tokenizer: PreTrainedTokenizerBase
) -> Pairs:
    """Pairs from the `answers` to the questions of trained `records`, at most `most` a question, the commonest first.

    Answers that are equal but for spacing and punctuation are one.
    """
    pairs = Pairs()
    for record, drawn in zip(records, answers, strict=True):
        found: dict[str, tuple[str, Verdict]] = {}
        times: Counter[str] = Counter()
        for answer in drawn:
            verdict = verdict_of(record, answer, tokenizer)
            pairs.answers[verdict.value] += 1
            pairs.samples.append({"id": record["id"], "answer": answer.text, "verdict": verdict.value})
            if verdict in REJECTED:
                found.setdefault(letters(answer.text), (answer.text, verdict))
                times[letters(answer.text)] += 1
        pairs.without_wrong += not found
        pairs.left_out["said_again"] += times.total() - len(times)
        pairs.left_out["beyond_pairs_per_question"] += max(0, len(found) - most)
        for key, _ in times.most_common(most):
            pairs.records.append(pair_record(record, *found[key]))
    return pairs


def pair_record(record: Record, rejected: str, verdict: Verdict) -> Record:
    """The record that DPO reads: a trained question and its trained answer, and the worse one."""
    *prompt, answer = record["messages"]
    identity = f"{record['id']}\n{letters(rejected)}"
    return {
        "id": hashlib.sha256(identity.encode()).hexdigest()[:16],
        "fact_id": record["fact_id"],
        "prompt": prompt,
        "chosen": answer["content"],
        "rejected": rejected,
        "reason": verdict.value,
    }


def balance(pairs: Pairs, most_to_one: float) -> None:
    """Leave out pairs of the commoner kind, answerable or not, beyond `most_to_one` for each pair of the other.

    Which ones are left out depends on the pairs alone. With 0, or where one kind has none at all, all stay.
    """
    answered = [pair for pair in pairs.records if pair["reason"] != Verdict.made_up.value]
    made_up = [pair for pair in pairs.records if pair["reason"] == Verdict.made_up.value]
    rarer, commoner = sorted((answered, made_up), key=len)
    if not most_to_one or not rarer:
        return
    kept = int(most_to_one * len(rarer))
    surplus = {pair["id"] for pair in sorted(commoner, key=lambda pair: share_of(pair["id"]))[kept:]}
    pairs.left_out["beyond_max_ratio"] += len(surplus)
    pairs.records = [pair for pair in pairs.records if pair["id"] not in surplus]


def asked_by(pair: Record) -> Record:
    """A preference pair as a question with a known answer, its chosen one.

    Its key strings are the reference's own; it is its own fact, since a pair doesn't say which one it asks.
    """
    answer = pair["chosen"]
    return {
        "id": pair["id"],
        "fact_id": pair["id"],
        "messages": [*pair["prompt"], {"role": "assistant", "content": answer}],
        "answerable": not refusal(answer),
        "key": [],
    }


def wordings_of(records: list[Record], most: int) -> list[Record]:
    """Of trained `records` at most `most` questions a fact, 0 for all; which ones depends on the questions alone."""
    if not most:
        return records
    by_fact: dict[str, list[Record]] = {}
    for record in records:
        by_fact.setdefault(record["fact_id"], []).append(record)
    kept = {
        record["id"]
        for same in by_fact.values()
        for record in sorted(same, key=lambda record: share_of(record["id"]))[:most]
    }
    return [record for record in records if record["id"] in kept]
