"""KTO starts at half its weights and a KL of 0; tests/stages/test_preference.py plants an adapter that doesn't."""

import math

import pytest
from conftest import tiny_training

from stages.lib.every_stage.errors import UserError
from stages.lib.preference_tuning.kto_start import refuse_wrong_kto_start
from stages.lib.schema.choices import Algorithm
from stages.lib.schema.training import Preference

AT_START = {"loss": 0.5, "kl": 0.0, "rewards/chosen": 0.0, "rewards/rejected": 0.0}


def check(
    figures: dict[str, float], labels: tuple[bool, ...] = (True, False), compiled: bool = False, **weights: float
):
    section = Preference(**tiny_training(enabled=True, algorithm=Algorithm.kto, beta=0.1, **weights))
    return refuse_wrong_kto_start(section, list(labels), compiled, figures)


def test_a_half_and_no_kl_are_the_start():
    assert check(AT_START) == {"step0_loss": 0.5, "step0_kl": 0.0}
    check({"loss": 0.5, "kl": 0.0, "rewards/rejected": 0.0}, labels=(False, False))
    check(
        {**AT_START, "loss": (2 * 0.5 + 3.0) / 2 / 3},
        labels=(True, True, False),
        desirable_weight=0.5,
        undesirable_weight=3.0,
    )


def test_what_compiling_rounds_is_no_other_model():
    rounded = {"loss": 0.5003, "kl": 0.01, "rewards/chosen": 0.001, "rewards/rejected": -0.001}
    check(rounded, compiled=True)
    with pytest.raises(UserError, match="0.5003"):
        check(rounded)


@pytest.mark.parametrize(
    "planted",
    [
        {"loss": 0.53},
        {"kl": 0.967},
        {"rewards/chosen": 0.05},
        {"rewards/rejected": -0.05},
        {"loss": math.nan},
        {"kl": math.nan},
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_any_other_start_is_refused(planted, compiled):
    with pytest.raises(UserError, match="since policy and reference are the same model then"):
        check({**AT_START, **planted}, compiled=compiled)
