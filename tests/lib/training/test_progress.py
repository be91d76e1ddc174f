"""A run in which nothing can be learned any more ends, and one that is only scaling its gradients does not."""

from types import SimpleNamespace

import pytest

from stages.lib.errors import UserError
from stages.lib.training.progress import MOST_OVERFLOWS, refuse_broken_steps


def told(norms, last=1000):
    """What becomes of a run in float16 whose trainer logs these norms of its gradient, a step each."""
    callbacks = []
    refuse_broken_steps("sft", SimpleNamespace(add_callback=callbacks.append))
    arguments = SimpleNamespace(fp16=True, learning_rate=1e-4)
    for step, norm in enumerate(norms, 1):
        state = SimpleNamespace(global_step=step, max_steps=last)
        callbacks[0].on_log(arguments, state, None, logs={"loss": 2.0, "grad_norm": norm})
    callbacks[0].on_log(arguments, state, None, logs={"train_runtime": 1.0})


def test_float16_may_overflow_until_its_scale_fits():
    told([float("inf")] * (MOST_OVERFLOWS - 1) + [1.0] + [float("nan")] * (MOST_OVERFLOWS - 1))


@pytest.mark.parametrize(("overflows", "last"), [(MOST_OVERFLOWS, 1000), (3, 3)])
def test_a_run_in_float16_that_changes_no_weight_is_stopped(overflows, last):
    with pytest.raises(UserError, match=f"no finite gradient in {overflows} steps in a row .*dtype=bfloat16"):
        told([float("nan")] * overflows, last)
