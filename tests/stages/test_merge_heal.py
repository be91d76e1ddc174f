"""merge-heal adds the adapter of heal to the pruned model, and passes "off" on."""

import json

import pytest
from conftest import tiny_training

from stages.heal import heal
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import OFF, read_lineage
from stages.lib.schema.choices import Quantization
from stages.lib.schema.merging import MergeHeal
from stages.lib.schema.pruning import Prune
from stages.lib.schema.training import Heal
from stages.merge_heal import METRICS, OUT, merge_heal
from stages.prune import prune
from tests.stages.test_prune import llama, write_whole

pytestmark = pytest.mark.chain


def test_off_is_passed_on(place):
    heal(Heal(**tiny_training()), place)
    merge_heal(MergeHeal(), place)
    assert [path.name for path in (place / OUT).iterdir()] == ["lineage.json"]
    assert read_lineage(place / OUT) == OFF


def test_merges_onto_the_pruned_model_and_no_other(place):
    write_whole(place, llama())
    prune(Prune(enabled=True, layers=1, rows=4), place)
    heal(Heal(**tiny_training(enabled=True, quantization=Quantization.none, max_steps=2)), place)
    merge_heal(MergeHeal(), place)
    assert json.loads((place / METRICS).read_text(encoding="utf-8"))["kl"] < 0.1
    assert read_lineage(place / OUT)["base"]["kind"] == "pruned"
    prune(Prune(enabled=True, layers=2, rows=4), place)
    with pytest.raises(UserError, match="models/healed was trained on weights"):
        merge_heal(MergeHeal(), place)
