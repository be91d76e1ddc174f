"""DPO on the tiny merged model: starts at ln 2, and counts what it leaves out."""

import csv
import math

import pytest
from conftest import tiny_training

from stages.dpo import LOG, OUT, PREFERENCES, dpo, training_pairs
from stages.lib.errors import UserError
from stages.lib.models import load_tokenizer
from stages.lib.schema import Dpo, Merge, Sft
from stages.merge import merge
from stages.sft import BASE, sft


@pytest.fixture
def merged(place):
    sft(Sft(**tiny_training(max_steps=1)), place)
    merge(Merge(), place)
    return place


def test_starts_at_ln_2_and_learns_to_prefer(merged):
    dpo(Dpo(**tiny_training(beta=0.5, max_steps=60, learning_rate=0.02)), merged)
    with (merged / LOG).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["loss"]) == pytest.approx(math.log(2), abs=1e-6)
    assert float(rows[0]["reward_margin"]) == 0.0
    assert sum(float(row["reward_margin"]) for row in rows[-10:]) > 10  # 60 steps see each pair three times
    assert (merged / OUT / "adapter_model.safetensors").is_file()


def test_pairs_that_are_too_long_are_counted(place):
    tokenizer = load_tokenizer(BASE)
    path = PREFERENCES / "train.jsonl"
    everything, none = training_pairs(path, tokenizer, 100_000)
    kept, dropped = training_pairs(path, tokenizer, 100)
    assert none == {"too_long": 0}
    assert dropped["too_long"] > 0
    assert len(kept) + dropped["too_long"] == len(everything)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert all(pair[side][-1] == stop for pair in kept for side in ("chosen_ids", "rejected_ids"))
    with pytest.raises(UserError, match="dpo.max_length=10"):
        training_pairs(path, tokenizer, 10)
