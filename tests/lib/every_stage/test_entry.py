"""How a stage starts: what it tells libraries, and that a tracker neither asks, blocks nor loses what it was given."""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, tiny_training

import stages.lib.schema.training
from stages.lib.every_stage.entry import environment, records, timed
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import arguments_of
from stages.lib.schema.choices import Tracker
from stages.lib.schema.training import Sft


def run_sft(place: Path, tracker: str) -> subprocess.CompletedProcess[str]:
    """`python -m stages.sft` as DVC starts it, with a standard input that never answers."""
    arguments = arguments_of(Sft(**tiny_training(max_steps=2))) | {"report_to": [tracker]}
    (place / "params.lock.yaml").write_text(yaml.safe_dump({"sft": arguments}), encoding="utf-8")
    silent, mouth = os.pipe()
    try:
        return subprocess.run(
            [sys.executable, "-m", "stages.sft"],
            cwd=place,
            env={**os.environ, "DVC_STAGE": "sft", "DVC_ROOT": str(place), "PYTHONPATH": str(ROOT)},
            stdin=silent,
            capture_output=True,
            text=True,
        )
    finally:
        os.close(silent)
        os.close(mouth)


@pytest.mark.slow
@pytest.mark.parametrize("tracker", [tracker.value for tracker in Tracker])
def test_what_a_tracker_was_told_is_there_after_training(place, tracker):
    """Those that are installed; tensorboard always is, for tests."""
    if find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed")
    done = run_sft(place, tracker)
    assert done.returncode == 0, done.stderr
    kept = [path for path in (place / "outputs/tracking").rglob("*") if path.is_file()]
    assert [path for path in kept if path.stat().st_size > 1000]
    assert {path.name for path in place.iterdir()} <= {
        "cache", "data", "metrics", "models", "outputs", "params.lock.yaml",
    }  # fmt: skip


def test_tracking_survives_an_experiments_temporary_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    told = environment("dpo")
    assert told["TENSORBOARD_LOGGING_DIR"].startswith(f"{tmp_path}/outputs/tracking/tensorboard/dpo_")
    assert told["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/outputs/tracking/mlflow.db"
    monkeypatch.delenv("DVC_ROOT")
    assert told["WANDB_DIR"] != environment("dpo")["WANDB_DIR"] == str(Path("outputs/tracking").absolute())


@pytest.mark.parametrize("tracker", Tracker)
def test_a_tracker_that_is_not_installed_is_refused_with_the_command_that_fixes_it(monkeypatch, tracker):
    monkeypatch.setattr(stages.lib.schema.training, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"sft\.report_to: .*pip install {tracker.value}"):
        Sft(**tiny_training(report_to=[tracker]))


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_stage_on_a_machine_without_the_tracker_says_so_at_once(place):
    """The lock was written where it is installed."""
    done = run_sft(place, "wandb")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("sft: sft.report_to: found ['wandb']")
    assert "Traceback" not in done.stderr
    assert not (place / "models/sft").exists()


def test_a_clock_that_is_moved_back_while_a_stage_runs_makes_no_negative_seconds(tmp_path, monkeypatch):
    def sft(section, root):
        monkeypatch.setattr(time, "time", lambda: 0.0)
        return {}

    timed(sft, None, tmp_path)
    record = json.loads((records(tmp_path) / "sft.json").read_text(encoding="utf-8"))
    assert 0 <= record["seconds"] < 60
