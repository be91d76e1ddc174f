"""How far from ln 2 DPO may start depends on how its passes are computed, and never reaches another model."""

import math

import pytest
from conftest import tiny_training

from stages.lib.dpo_start import refuse_wrong_reference
from stages.lib.every_stage.errors import UserError
from stages.lib.schema.training import Dpo


def figures(margin):
    return {"rewards/margins": margin, "loss": math.log(1 + math.exp(-margin))}


@pytest.mark.parametrize(("margin", "compiled"), [(0.0, False), (0.0004, True)])
def test_rounding_is_no_other_model(margin, compiled):
    start = refuse_wrong_reference(Dpo(**tiny_training(beta=0.1)), figures(margin), compiled)
    assert start["step0_margin"] == margin


@pytest.mark.parametrize(("margin", "compiled"), [(0.0004, False), (0.05, True), (-0.05, True), (math.nan, True)])
def test_another_reference_is_refused(margin, compiled):
    with pytest.raises(UserError, match="before the first step the reward margin"):
        refuse_wrong_reference(Dpo(**tiny_training(beta=0.1)), figures(margin), compiled)
