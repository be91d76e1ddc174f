"""Rows for trainers: cut between turns, complete to the stop token, everything left out counted."""

import pytest
from conftest import tiny_training

from stages.dpo import PREFERENCES
from stages.lib.errors import UserError
from stages.lib.models.loading import load_tokenizer
from stages.lib.schema.choices import LossOn, Overlong
from stages.lib.schema.training import Sft
from stages.lib.training.token_rows import preference_rows, supervised_rows
from stages.sft import BASE, PDF_QA, ULTRACHAT

CHATS = {ULTRACHAT / "train.jsonl": 1}
BOTH = {**CHATS, PDF_QA / "train.jsonl": 1}


def section(**changes):
    return Sft(**tiny_training(**changes))


def test_long_conversations_are_cut_between_turns_and_counted(place):
    tokenizer = load_tokenizer(BASE)
    whole, none_cut = supervised_rows(section(max_length=100_000), CHATS, tokenizer)
    assert none_cut == {"cut_turns": 0, "truncated": 0, "dropped_too_long": 0}
    rows, counts = supervised_rows(section(max_length=700), CHATS, tokenizer)
    assert counts["cut_turns"] > 0
    assert len(rows) + counts["dropped_too_long"] == len(whole)
    assert all(len(row["input_ids"]) <= 700 for row in rows)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert all([label for label in row["labels"] if label != -100][-1] == stop for row in rows)


def test_the_notebooks_way_learns_all_tokens_of_truncated_rows(place):
    options = {"loss_on": LossOn.all, "overlong": Overlong.truncate}
    rows, counts = supervised_rows(section(max_length=300, **options), CHATS, load_tokenizer(BASE))
    assert counts["truncated"] > 0
    assert all(row["labels"] == row["input_ids"] for row in rows)
    assert max(len(row["input_ids"]) for row in rows) == 300


def test_no_row_left_is_an_error_that_says_what_to_raise(place):
    with pytest.raises(UserError, match="sft.max_length=8"):
        supervised_rows(section(max_length=8), BOTH, load_tokenizer(BASE))


def test_pairs_that_are_too_long_are_counted(place):
    tokenizer = load_tokenizer(BASE)
    path = PREFERENCES / "train.jsonl"
    everything, none = preference_rows("dpo", [path], tokenizer, 100_000)
    kept, dropped = preference_rows("dpo", [path], tokenizer, 100)
    assert none == {"too_long": 0}
    assert dropped["too_long"] > 0
    assert len(kept) + dropped["too_long"] == len(everything)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert all(pair[side][-1] == stop for pair in kept for side in ("chosen_ids", "rejected_ids"))
    with pytest.raises(UserError, match="dpo.max_length=10"):
        preference_rows("dpo", [path], tokenizer, 10)
