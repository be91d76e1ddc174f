"""DPO on the tiny merged model: starts at ln 2, and counts what it leaves out."""

import csv
import math

import pytest
from conftest import tiny_training

from stages.dpo import LOG, OUT, dpo
from stages.lib.schema import Dpo, Merge, Sft
from stages.merge import merge
from stages.sft import sft


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
