"""merge-preference adds the adapter to the model that it was trained on, and passes "off" on."""

import json

import pytest
from conftest import tiny_training

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import OFF, read_lineage
from stages.lib.family import made_beside
from stages.lib.schema.choices import Algorithm, MergeBase
from stages.lib.schema.merging import Merge, MergePreference
from stages.lib.schema.training import Preference, Sft
from stages.merge import merge
from stages.merge_preference import METRICS, OUT, merge_preference
from stages.preference import preference
from stages.sft import sft

pytestmark = pytest.mark.chain


def test_off_is_passed_on(place):
    preference(Preference(**tiny_training()), place)
    merge_preference(MergePreference(), place)
    assert [path.name for path in (place / OUT).iterdir()] == ["lineage.json"]
    assert read_lineage(place / OUT) == OFF


def test_merges_onto_the_base(place):
    preference(Preference(**tiny_training(enabled=True)), place)
    merge_preference(MergePreference(base=MergeBase.dequantized), place)
    assert (place / OUT / "model.safetensors").is_file()
    assert json.loads((place / METRICS).read_text(encoding="utf-8"))["kl"] < 0.1
    assert made_beside(read_lineage(place / OUT)) == ("orpo", "base")


def test_merges_onto_the_sft_model_that_it_started_from(place):
    sft(Sft(**tiny_training(max_steps=1)), place)
    merge(Merge(), place)
    preference(Preference(**tiny_training(enabled=True, algorithm=Algorithm.kto)), place)
    merge_preference(MergePreference(base=MergeBase.dequantized), place)
    assert json.loads((place / METRICS).read_text(encoding="utf-8"))["kl"] < 0.1
    assert made_beside(read_lineage(place / OUT)) == ("kto", "sft")
    sft(Sft(**tiny_training(max_steps=2)), place)  # another SFT model: the adapter isn't its
    merge(Merge(), place)
    with pytest.raises(UserError, match="was trained on weights"):
        merge_preference(MergePreference(), place)
