"""merge-orpo adds ORPO's adapter to the base, and passes "off" on."""

import json

import pytest
from conftest import tiny_training

from stages.lib.every_stage.lineage import OFF, read_lineage
from stages.lib.schema.choices import MergeBase
from stages.lib.schema.merging import MergeOrpo
from stages.lib.schema.training import Orpo
from stages.merge_orpo import METRICS, OUT, merge_orpo
from stages.orpo import orpo

pytestmark = pytest.mark.chain


def test_off_is_passed_on(place):
    orpo(Orpo(**tiny_training()), place)
    merge_orpo(MergeOrpo(), place)
    assert [path.name for path in (place / OUT).iterdir()] == ["lineage.json"]
    assert read_lineage(place / OUT) == OFF


def test_merges_onto_the_base(place):
    orpo(Orpo(**tiny_training(enabled=True)), place)
    merge_orpo(MergeOrpo(base=MergeBase.dequantized), place)
    assert (place / OUT / "model.safetensors").is_file()
    assert json.loads((place / METRICS).read_text(encoding="utf-8"))["kl"] < 0.1
