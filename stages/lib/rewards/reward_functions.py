"""Rewards as functions of answers, by which trl's trainers and our own samples are scored.

trl is never given the reward model itself: it would encode by its own rules, without the stop token's place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from stages.lib.evaluation.generation import Answer
from stages.lib.evaluation.sampled_pairs import Verdict, verdict_of
from stages.lib.evaluation.scored_rows import Record
from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat import encode_answer, encode_prompt
from stages.lib.rewards.reward_model import scores
from stages.lib.schema.choices import RlReward

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Reward = Callable[[list[Record], list[Answer]], list[float]]
"""The rewards of answers to trained rows, in their order."""

LONGEST = 2.0
"""Times the trained answer's characters, up to which an answer may state its facts: else listing every name wins."""

MISSING_STOP = 1.0
"""What an answer that never stops loses of the reward model's score, which has seen none (as in trl's PPO)."""


def key_facts_reward(tokenizer: PreTrainedTokenizerBase) -> Reward:
    """1 for an answer that ended by itself, isn't much longer than the trained one, and states its facts; else 0.

    Where there is no answer, refusing is right.
    """

    def rewards(records: list[Record], answers: list[Answer]) -> list[float]:
        return [
            float(short_enough(record, answer) and verdict_of(record, answer, tokenizer) is Verdict.right)
            for record, answer in zip(records, answers, strict=True)
        ]

    return rewards


def short_enough(record: Record, answer: Answer) -> bool:
    """Whether an answer is at most LONGEST times as long as the trained one."""
    return len(answer.text) <= LONGEST * len(record["messages"][-1]["content"])


def model_reward(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype, between_0_and_1: bool = False
) -> Reward:
    """The reward model's score of each answer, encoded as its training did; MISSING_STOP less where it didn't end.

    `between_0_and_1` gives the score's sigmoid: the chance that it is better than an answer of score 0 (Bradley and
    Terry), so that no style outweighs a fact.
    """

    def rewards(records: list[Record], answers: list[Answer]) -> list[float]:
        rows, penalties = [], []
        for record, answer in zip(records, answers, strict=True):
            row, whole = row_of(record, answer, tokenizer)
            rows.append(row)
            penalties.append(0.0 if whole else MISSING_STOP)
        found = scores(model, rows, tokenizer.pad_token_id, dtype)
        found = [score - penalty for score, penalty in zip(found, penalties, strict=True)]
        return [1 / (1 + math.exp(-max(-60.0, score))) for score in found] if between_0_and_1 else found

    return rewards


def row_of(record: Record, answer: Answer, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], bool]:
    """Token ids of a question and an answer to it, and whether they end as a trained answer does.

    One that didn't stop has no stop token; what the template can't hold is left without, too.
    """
    prompt = record["messages"][:-1]
    try:
        before, said = encode_answer(tokenizer, prompt, answer.text)
        return (before + said, True) if answer.stopped else (before + said[:-1], False)
    except UserError:
        bare = tokenizer(answer.text, add_special_tokens=False)["input_ids"]
        return encode_prompt(tokenizer, prompt) + bare, False


def rewards_of(
    kind: RlReward, tokenizer: PreTrainedTokenizerBase, scorer: tuple[PreTrainedModel, torch.dtype] | None
) -> dict[str, Reward]:
    """The rewards that are summed, by name; `scorer` is the reward model and what it computes in, where it is used."""
    found: dict[str, Reward] = {}
    if kind is not RlReward.model:
        found["key_facts"] = key_facts_reward(tokenizer)
    if scorer:
        found["reward_model"] = model_reward(*(scorer[0], tokenizer, scorer[1]), between_0_and_1=kind is RlReward.both)
    return found


def for_trl(
    name: str, reward: Reward, records: list[Record], stops: set[int], tokenizer: PreTrainedTokenizerBase
) -> Callable[..., list[float]]:
    """A reward as trl calls it: with `completion_ids`, stop token included, and `place`, of the rows in `records`."""

    def rewarded(completion_ids: list[list[int]], place: list[int], **_: object) -> list[float]:
        answers = [answer_of(ids, stops, tokenizer) for ids in completion_ids]
        return reward([records[index] for index in place], answers)

    rewarded.__name__ = name
    return rewarded


def answer_of(ids: list[int], stops: set[int], tokenizer: PreTrainedTokenizerBase) -> Answer:
    """What a policy said, as our own generation returns it."""
    stopped = bool(ids) and ids[-1] in stops
    said = ids[:-1] if stopped else ids
    return Answer(str(tokenizer.decode(said, skip_special_tokens=True)).strip(), stopped, len(said))
