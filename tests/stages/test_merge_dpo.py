"""merge-dpo refuses an adapter that was trained on another SFT model."""

import shutil

import pytest
from conftest import tiny_training

from stages.dpo import dpo
from stages.lib.every_stage.errors import UserError
from stages.lib.schema.merging import Merge, MergeDpo
from stages.lib.schema.training import Dpo, Sft
from stages.merge import merge
from stages.merge_dpo import OUT, merge_dpo
from stages.sft import sft


@pytest.mark.slow
def test_merges_onto_its_own_sft_model_alone(place):
    sft(Sft(**tiny_training(max_steps=1)), place)
    merge(Merge(), place)
    dpo(Dpo(**tiny_training(beta=0.5, max_steps=2)), place)
    merge_dpo(MergeDpo(), place)
    assert (place / OUT / "model.safetensors").is_file()
    shutil.rmtree(place / OUT)
    sft(Sft(**tiny_training(max_steps=2)), place)
    merge(Merge(), place)
    with pytest.raises(UserError, match="models/dpo was trained on weights"):
        merge_dpo(MergeDpo(), place)
    assert not (place / OUT).exists()
