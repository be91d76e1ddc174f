"""Rows for KTO: single answers with a label, in passes of a fixed size, each with another answer for the KL.

KTO compares an answer's reward with the KL between policy and reference, which trl estimates in each forward pass: on
the pass's own prompts, each with the answer to another of them (Ethayarajh et al. 2024, arXiv 2402.01306, section 4.1).
So the rows of a pass are a part of the method, not of the hardware, and no prompt may be in a pass twice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import read_jsonl
from stages.lib.models.chat import IGNORED, Messages, encode_answer
from stages.lib.training.rehearsal import longest_rows

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from stages.lib.models.chat import Labelled
    from stages.lib.schema.training import Preference
    from stages.lib.training.plan import Plan


class KtoRow(TypedDict):
    """One answer by trl's names of its columns, all token ids but the label."""

    prompt_ids: list[int]
    completion_ids: list[int]  # the answer, with its stop token
    KL_completion_ids: list[int]  # another prompt's answer
    label: bool  # whether somebody likes it


@dataclass
class KtoRows:
    """The rows in the order in which they are trained on."""

    rows: list[KtoRow]
    dropped: dict[str, int]
    from_votes: int  # without a partner
    per_step: int  # rows of an optimizer step

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row's longer sequence, prompt included."""
        return [
            len(row["prompt_ids"]) + max(len(row["completion_ids"]), len(row["KL_completion_ids"])) for row in self.rows
        ]

    def labelled(self, indices: list[int] | None = None) -> list[Labelled]:
        """The rows of these indices, or all, as token ids with labels on the answer."""
        rows = self.rows if indices is None else [self.rows[index] for index in indices]
        return [
            {
                "input_ids": row["prompt_ids"] + row["completion_ids"],
                "labels": [IGNORED] * len(row["prompt_ids"]) + row["completion_ids"],
            }
            for row in rows
        ]

    def first_labels(self, plan: Plan) -> list[bool]:
        """Labels of the rows of the pass before training; of the first step, which takes its place on sharded weights.

        See rehearsal.rehearse.
        """
        first = range(min(self.per_step, len(self.rows))) if plan.sharded else longest_rows(self.lengths, plan)
        return [self.rows[index]["label"] for index in first]

    def counts(self) -> dict[str, int]:
        """How many answers there are of either kind, for metrics/preference.json."""
        desirable = sum(row["label"] for row in self.rows)
        kinds = {"desirable": desirable, "undesirable": len(self.rows) - desirable}
        return {**kinds, "without_partner": self.from_votes, "too_long": self.dropped["too_long"]}


def rows_of_a_pass(section: Preference, processes: int) -> int:
    """Rows that each of `processes` takes in a pass. Raises UserError where its share is no share, or a single row.

    Alone a row's KL would be its own reward.
    """
    if section.kl_batch_size % processes or section.kl_batch_size < 2 * processes:
        raise UserError(
            f"preference.kl_batch_size: found {section.kl_batch_size} for {processes} processes, needed a multiple of "
            f"them with 2 rows or more for each, such as {2 * processes}; or fewer preference.processes"
        )
    return section.kl_batch_size // processes


def kto_rows(section: Preference, pairs: Path, unpaired: Path, tokenizer: PreTrainedTokenizerBase) -> KtoRows:
    """Both answers of each pair, and the answers that were voted on alone, tokenised and in passes.

    An answer longer with its prompt than `section.max_length` tokens is dropped and counted. Raises UserError if none
    is left, or a prompt has more answers than there are passes. Says which weights would balance the two kinds.
    """
    rows: list[KtoRow] = []
    from_votes, too_long = 0, 0
    for alone, messages, answer, label in judged_answers(pairs, unpaired):
        prompt, completion = encode_answer(tokenizer, messages, answer)
        if len(prompt) + len(completion) > section.max_length:
            too_long += 1
            continue
        from_votes += alone
        rows.append({"prompt_ids": prompt, "completion_ids": completion, "KL_completion_ids": [], "label": label})
    if not rows:
        raise UserError(
            f"{pairs}, {unpaired}: no answer is left: {too_long} are longer than preference.max_length="
            f"{section.max_length} tokens; raise it"
        )
    rows = with_answers_for_kl(in_passes(rows, section.kl_batch_size, section.seed), section)
    found = KtoRows(rows, {"too_long": too_long}, from_votes, section.batch_size)
    if advice := unbalanced(section, found.counts()):
        print(advice, flush=True)
    return found


def judged_answers(pairs: Path, unpaired: Path) -> Iterator[tuple[bool, Messages, str, bool]]:
    """Whether it has no partner, the prompt, the answer and its label, of each prepared answer."""
    for record in read_jsonl(pairs):
        yield False, record["prompt"], record["chosen"], True
        yield False, record["prompt"], record["rejected"], False
    for record in read_jsonl(unpaired):
        yield True, record["prompt"], record["completion"], record["label"]


def in_passes(rows: list[KtoRow], size: int, seed: int) -> list[KtoRow]:
    """The rows in an order that `seed` decides, so that no `size` of them, counted from the first, share a prompt.

    Prompts are dealt to the passes in turn, those with the most answers first, as long as a pass has room; the last one
    may have less. Raises UserError where a prompt has more answers than there are passes.
    """
    drawn = random.Random(seed)
    by_prompt: dict[tuple[int, ...], list[KtoRow]] = {}
    for row in rows:
        by_prompt.setdefault(tuple(row["prompt_ids"]), []).append(row)
    prompts = list(by_prompt.values())
    drawn.shuffle(prompts)
    prompts.sort(key=len, reverse=True)
    for held in prompts:  # else pairs' better answers would all be dealt to every other pass
        drawn.shuffle(held)
    count = -(-len(rows) // size)
    room = [size] * (count - 1) + [len(rows) - size * (count - 1)]
    places = (number for level in range(size) for number in range(count) if room[number] > level)
    passes: list[list[KtoRow]] = [[] for _ in room]
    for row, number in zip((row for held in prompts for row in held), places, strict=True):
        passes[number].append(row)
    if any(len({tuple(row["prompt_ids"]) for row in each}) < len(each) for each in passes):
        raise UserError(
            f"KTO: one prompt has {len(prompts[0])} answers, but {len(rows)} answers make {count} passes of {size}, "
            "and no pass may have a prompt twice: needed more prompts, or a smaller preference.kl_batch_size"
        )
    *whole, last = passes
    drawn.shuffle(whole)
    for each in passes:
        drawn.shuffle(each)
    return [row for each in [*whole, last] for row in each]


def with_answers_for_kl(rows: list[KtoRow], section: Preference) -> list[KtoRow]:
    """The rows, each with the answer to the prompt before it in its pass, the first with the last one's.

    A last pass of one row has none but its own, which would be its reward: it gets that of an earlier pass. An answer
    that doesn't fit behind the other prompt is cut; nothing is learned from it. Raises UserError where all rows have
    one prompt.
    """
    size = section.kl_batch_size
    found: list[KtoRow] = []
    for index, row in enumerate(rows):
        first = index - index % size
        after = rows[index + 1 : first + size] if index == first else []
        nearest_last = [*rows[:index], *after]
        other = next((each for each in reversed(nearest_last) if each["prompt_ids"] != row["prompt_ids"]), None)
        if other is None:
            raise UserError(f"KTO: found answers to one prompt alone ({len(rows)}), needed two prompts or more")
        room = section.max_length - len(row["prompt_ids"])
        found.append({**row, "KL_completion_ids": other["completion_ids"][:room]})
    return found


def unbalanced(section: Preference, counts: dict[str, int]) -> str:
    """Which weight would be in the range that the paper advises (equation 8), where neither is; else an empty text."""
    liked, disliked = (max(1, counts[kind]) for kind in ("desirable", "undesirable"))
    ratio = section.desirable_weight * liked / (section.undesirable_weight * disliked)
    if 1 <= ratio <= 4 / 3:
        return ""
    return (
        f"preference: {liked} answers are liked and {disliked} aren't. KTO's paper has their weights, times these, at "
        f"1 to 4/3: preference.desirable_weight={section.desirable_weight / ratio:.3g} would do it"
    )
