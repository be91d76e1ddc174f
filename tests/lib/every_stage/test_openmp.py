"""Waiting threads spin shortly beside other programs, and as the user says where the user says it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from stages.lib.every_stage import openmp
from stages.lib.every_stage.openmp import BUSY, QUIET, runnable, spin_count


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in openmp.ASKED_BY_USER:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("looks", "expected"), [([1], QUIET), ([3, 1], QUIET), ([2, 2, 2, 2], BUSY), ([2, 3, 2, 1], QUIET), ([0], QUIET)]
)
def test_what_computes_all_the_time_makes_waiting_threads_sleep_soon(monkeypatch, looks, expected):
    left = iter(looks)
    monkeypatch.setattr(openmp, "runnable", lambda: next(left))
    assert spin_count() == {"GOMP_SPINCOUNT": expected}
    assert next(left, None) is None


@pytest.mark.parametrize("name", openmp.ASKED_BY_USER)
def test_what_the_user_asks_for_stays(monkeypatch, name):
    monkeypatch.setenv(name, "passive")
    assert spin_count() == {}


@pytest.mark.skipif(not Path("/proc/loadavg").is_file(), reason="Linux alone says it")
def test_a_busy_program_is_seen():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            deadline = time.monotonic() + 20
            while runnable() < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert spin_count() == {"GOMP_SPINCOUNT": BUSY}
        finally:
            busy.kill()


def test_a_machine_that_does_not_say_is_quiet(monkeypatch):
    monkeypatch.setattr(openmp, "Path", lambda _: Path("/nowhere/loadavg"))
    assert spin_count() == {"GOMP_SPINCOUNT": QUIET}


def test_a_stage_tells_openmp_before_torch_is_there():
    code = (
        "import os, sys; from stages.lib.every_stage import entry; entry.run_from_shell = lambda stage: print("
        "os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules); entry.run(lambda section, root: {})"
    )
    environment = {name: value for name, value in os.environ.items() if name not in openmp.ASKED_BY_USER}
    environment |= {"PYTHONPATH": str(ROOT)}
    environment.pop("DVC_STAGE", None)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, torch_is_there = done.stdout.split()
    assert count in (QUIET, BUSY) and torch_is_there == "False"
