"""The questions that rl asks, and whether there is anything to learn from the answers to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from stages.lib.evaluation.generation import Answer
from stages.lib.evaluation.sampled_pairs import verifiable
from stages.lib.evaluation.scored_rows import Record
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import read_jsonl, share_of
from stages.lib.models.chat import encode_prompt
from stages.lib.preferences.evaluation_sets import evaluation_questions, refuse_leaks
from stages.lib.rewards.reward_functions import Reward
from stages.lib.schema.choices import RlReward

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stages.lib.schema.reinforcement import Rl


class Rewarded(TypedDict):
    """An answer, and what it earns."""

    answer: str
    stopped: bool
    rewards: dict[str, float]  # by name
    reward: float  # their sum


class Line(TypedDict):
    """A question, and answers that were drawn to it."""

    id: str
    question: str
    reference: str  # the trained answer
    answers: list[Rewarded]


PROBED = 24
"""Questions that are answered before and after training."""

LEAST_MIXED = 0.1
"""Of them, whose answers must differ in reward: from equal rewards nothing can be learned."""


def trained_questions(
    section: Rl, folder: Path, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Record], list[int], dict[str, int]]:
    """The rows of `folder`'s train.jsonl that are asked, their prompts' tokens, and how many are left out, by why.

    Raises UserError for questions of an evaluation set, for a prompt that trl would encode otherwise than training
    did, and where none is left.
    """
    asked, counts, leaks = evaluation_questions(folder), Counter[str](), []
    records: list[Record] = []
    lengths: list[int] = []
    for row in read_jsonl(folder / "train.jsonl"):
        question = row["messages"][-2]["content"]
        if known := asked.find(question):
            leaks.append(f"{row['id']} ({question[:60]}) = {known}")
            continue
        if section.reward is not RlReward.model and not verifiable(row):
            counts["unverifiable"] += 1
            continue
        ids = encode_prompt(tokenizer, row["messages"][:-1])
        if len(ids) + section.max_completion_length > section.max_length:
            counts["too_long"] += 1
            continue
        records.append(row)
        lengths.append(len(ids) + section.max_completion_length)
        refuse_other_prompt(tokenizer, row, ids)
    refuse_leaks(leaks, "questions to be rewarded on")
    if not records:
        raise UserError(
            f"{folder / 'train.jsonl'}: no question can be asked: {counts['unverifiable']} have answers without a key "
            f"fact, {counts['too_long']} leave no room for rl.max_completion_length={section.max_completion_length} of "
            f"rl.max_length={section.max_length} tokens. Give rows a `key`, or raise rl.max_length"
        )
    return records, lengths, {"asked": len(records), "unverifiable": counts["unverifiable"],
                              "too_long": counts["too_long"]}  # fmt: skip


def refuse_other_prompt(tokenizer: PreTrainedTokenizerBase, row: Record, ids: list[int]) -> None:
    """Raise UserError where trl's trainers would ask a question in other tokens than training saw."""
    theirs: Any = tokenizer.apply_chat_template(
        [row["messages"][:-1]], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    if theirs["input_ids"][0] != ids:
        raise UserError(
            f"{row['id']}: trl would encode its question in {len(theirs['input_ids'][0])} other tokens than the "
            f"{len(ids)} of training; needed the same. Look at chat_template.jinja"
        )


def probed(records: list[Record]) -> list[Record]:
    """The rows that are answered before and after training: as their ids fall, whatever else is in the data."""
    return sorted(records, key=lambda record: share_of(record["id"]))[:PROBED]


def rewarded(rewards: dict[str, Reward], records: list[Record], answers: list[list[Answer]]) -> list[Line]:
    """A line for each question: its answers, each with its rewards by name and their sum."""
    flat = [answer for drawn in answers for answer in drawn]
    rows = [record for record, drawn in zip(records, answers, strict=True) for _ in drawn]
    found = {name: reward(rows, flat) for name, reward in rewards.items()}
    lines: Iterator[Rewarded] = (
        {
            "answer": answer.text,
            "stopped": answer.stopped,
            "rewards": {name: round(values[place], 4) for name, values in found.items()},
            "reward": round(sum(values[place] for values in found.values()), 4),
        }
        for place, answer in enumerate(flat)
    )
    return [
        {
            "id": record["id"],
            "question": record["messages"][-2]["content"],
            "reference": record["messages"][-1]["content"],
            "answers": [next(lines) for _ in drawn],
        }
        for record, drawn in zip(records, answers, strict=True)
    ]


def summary(lines: list[Line]) -> dict[str, float]:
    """The mean reward of all answers, the share that stopped, and that of questions whose answers' rewards differ."""
    answers = [answer for line in lines for answer in line["answers"]]
    return {
        "reward": round(sum(answer["reward"] for answer in answers) / len(answers), 4),
        "stopped": round(sum(answer["stopped"] for answer in answers) / len(answers), 4),
        "mixed": round(sum(is_mixed(line) for line in lines) / len(lines), 4),
    }


def is_mixed(line: Line) -> bool:
    """Whether a question's answers earn different rewards."""
    return len({answer["reward"] for answer in line["answers"]}) > 1


def refuse_nothing_to_learn(section: Rl, lines: list[Line]) -> None:
    """Raise UserError where the answers to nearly every question earn the same: no answer is better than another.

    The advantage of an answer is its reward less that of the others to its question (GRPO: Shao et al. 2024,
    arXiv 2402.03300; RLOO: Ahmadian et al. 2024, arXiv 2402.14740): 0 for all of them then, and so is the gradient.
    """
    mixed, needed = sum(map(is_mixed, lines)), max(1, ceil(LEAST_MIXED * len(lines)))
    if mixed < needed:
        mean = summary(lines)["reward"]
        remedy = (
            "train SFT longer, or ask what it sometimes knows" if mean < 0.5 else "it knows the answers; leave rl off"
        )
        raise UserError(
            f"found {mixed} of {len(lines)} questions whose {section.num_generations} answers differ in reward (the "
            f"mean is {mean:g}), needed {needed}: from equal rewards nothing is learned. Raise rl.temperature (it is "
            f"{section.temperature:g}) or rl.num_generations; {remedy}"
        )
