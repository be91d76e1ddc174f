"""ORPO: off it leaves a word and costs nothing; on it learns the chosen answers."""

import csv

import pytest
from conftest import tiny_training

from stages.lib.every_stage.lineage import OFF, read_lineage
from stages.lib.schema.choices import Quantization
from stages.lib.schema.training import Orpo
from stages.orpo import LOG, OUT, orpo


def test_off_says_so_and_nothing_else(place):
    orpo(Orpo(**tiny_training()), place)
    assert [path.name for path in (place / OUT).iterdir()] == ["lineage.json"]
    assert read_lineage(place / OUT) == OFF
    assert (place / LOG).read_text(encoding="utf-8").startswith("step,loss")


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [Quantization.nf4, Quantization.none])
def test_on_it_learns_the_chosen_answers(place, quantization):
    section = Orpo(**tiny_training(enabled=True, quantization=quantization, max_steps=40, learning_rate=0.02))
    orpo(section, place)
    with (place / LOG).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sum(float(row["nll_loss"]) for row in rows[-5:]) < sum(float(row["nll_loss"]) for row in rows[:5]) - 1
    assert (place / OUT / "adapter_model.safetensors").is_file()
