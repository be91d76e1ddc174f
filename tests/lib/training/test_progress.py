"""A run in which nothing can be learned any more ends; the log of an interrupted run is that of one that was not."""

import csv
import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from stages.lib.every_stage.errors import UserError
from stages.lib.training.progress import MOST_OVERFLOWS, refuse_broken_steps, report_progress, write_log


def train_in_float16(overflows, last=1000):
    """What becomes of a run whose optimizer leaves out the steps of which `overflows` is true."""
    callbacks = []
    accelerator = SimpleNamespace()
    refuse_broken_steps("sft", SimpleNamespace(add_callback=callbacks.append, accelerator=accelerator))
    arguments = SimpleNamespace(fp16=True, learning_rate=1e-4)
    control = SimpleNamespace(should_log=False)
    callbacks[0].on_train_begin(arguments, SimpleNamespace(global_step=0), control)
    for step, overflow in enumerate(overflows, 1):
        state = SimpleNamespace(global_step=step, max_steps=last)
        accelerator.optimizer_step_was_skipped = overflow
        callbacks[0].on_step_end(arguments, state, control)
        norm = float("inf") if overflow else 1.0
        callbacks[0].on_log(arguments, state, control, logs={"loss": 2.0, "grad_norm": norm})
    callbacks[0].on_log(arguments, state, control, logs={"train_runtime": 1.0})


def test_float16_may_overflow_until_its_scale_fits():
    train_in_float16([True] * (MOST_OVERFLOWS - 1) + [False] + [True] * (MOST_OVERFLOWS - 1))


@pytest.mark.parametrize(("overflows", "last"), [(MOST_OVERFLOWS, 1000), (3, 3)])
def test_a_run_in_float16_that_changes_no_weight_is_stopped(overflows, last):
    with pytest.raises(UserError, match=f"no finite gradient in {overflows} steps in a row .*dtype=bfloat16"):
        train_in_float16([True] * overflows, last)


def entry(step, loss):
    return {"step": step, "loss": loss, "grad_norm": float(step), "learning_rate": 1 / step}


def test_an_interrupted_run_has_the_log_of_one_that_was_not(tmp_path):
    """Steps with losses 1 to 7, each third one logged, and an interruption after the second and the fifth."""
    whole = [entry(3, 2.0), entry(6, 5.0), entry(7, 7.0)]
    parts = [entry(2, 1.5), entry(3, 3.0), entry(5, 4.5), entry(6, 6.0), entry(7, 7.0)]
    columns = {"loss": "loss", "grad_norm": "grad_norm", "lr": "learning_rate"}
    written = []
    for history in (whole, parts):
        write_log([*history, {"step": 7, "train_runtime": 1.0}], tmp_path / "log.csv", columns, 3)
        with (tmp_path / "log.csv").open(encoding="utf-8") as file:
            written.append(list(csv.DictReader(file)))
    assert written[0] == written[1]
    assert [(row["step"], row["loss"], row["grad_norm"]) for row in written[0]] == [
        ("3", "2.0", "3.0"), ("6", "5.0", "6.0"), ("7", "7.0", "7.0"),
    ]  # fmt: skip


def test_a_figure_that_no_step_had_is_an_empty_cell(tmp_path):
    """A step without a held token has no KL, and one without a learned token no accuracy."""
    history = [entry(2, 1.0), {**entry(3, 1.0), "kl": 0.5}, entry(6, 1.0), {**entry(7, 1.0), "kl": 0.0}]
    write_log(history, tmp_path / "log.csv", {"kl": "kl"}, 3)
    assert (tmp_path / "log.csv").read_text(encoding="utf-8").split() == ["step,kl", "3,0.5", "6,", "7,0.0"]


def test_the_pace_is_the_recent_one_and_time_left_goes_by_it(capsys):
    """A quiet machine's 1 s a step, and from step 100 on 3 s a step: ten lines later the slow pace alone counts."""
    callbacks, now = [], [0.0]
    trainer = SimpleNamespace(add_callback=callbacks.append, remove_callback=lambda _: None)
    report_progress(trainer, clock=lambda: now[0])
    arguments = SimpleNamespace(run_name="sft")
    callbacks[0].on_train_begin(arguments, SimpleNamespace(global_step=0, max_steps=300), None)
    for step in range(10, 301, 10):
        now[0] += 10 * (1 if step <= 100 else 3)
        callbacks[0].on_log(arguments, SimpleNamespace(global_step=step, max_steps=300), None, logs={"loss": 2.0})
    lines = capsys.readouterr().out.splitlines()
    assert lines[9] == "sft: step 100 of 300, loss 2.0000, 1.00 s a step, about 0:03:20 left"
    assert lines[19] == "sft: step 200 of 300, loss 2.0000, 3.00 s a step, about 0:05:00 left"
    assert lines[29] == "sft: step 300 of 300, loss 2.0000, 3.00 s a step"


HOLES = """
import sys
from types import SimpleNamespace
from stages.lib.hardware import set_up_cpu
import torch
from stages.lib.training.progress import return_holes

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 // 2**20

set_up_cpu(1)
callbacks = []
return_holes(SimpleNamespace(add_callback=callbacks.append))
held = [torch.ones(2**20) for _ in range(200)]  # 4 MiB each
del held[::2]  # between tensors that live on: nothing at the heap's end is free
before = resident()
callbacks[0].on_log(None, None, None, logs={"loss": 1.0})
print(before - resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the allocator is not glibc's")
def test_holes_between_tensors_are_returned_whenever_training_logs():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 350  # of 400 MiB
