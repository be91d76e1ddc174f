"""What ran is what is recorded: a change while a stage runs, or the end of its DVC, publishes nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, tiny_training

from stages.lib.every_stage import started
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import arguments_of
from stages.lib.every_stage.publish import published, written_whole
from stages.lib.schema.training import Sft

DVC_YAML = """
stages:
  sft:
    cmd: python -m stages.sft
    deps: [code.py, inputs, gone]
    params: [params.lock.yaml: [sft]]
"""


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace in which the stage sft has begun."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(started, "started", [])
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "params.lock.yaml").write_text("sft: {lora: {r: 4}, seed: 1}\ndpo: {beta: 0.1}\n")
    (tmp_path / "code.py").write_text("r = 4")
    (tmp_path / "inputs/deeper").mkdir(parents=True)
    (tmp_path / "inputs/deeper/small.txt").write_text("a")
    (tmp_path / "inputs/large.bin").write_bytes(b"a" * started.SMALL)
    monkeypatch.setattr(started, "end_with_us", lambda: None)
    started.remember("sft")
    return tmp_path


def put(name: str, text: str) -> Callable[[Path], object]:
    return lambda place: (place / name).write_text(text)


CHANGES: dict[str, Callable[[Path], object]] = {
    "in params.lock.yaml lora was {'r': 4} and is {'r': 2}": put("params.lock.yaml", "sft: {lora: {r: 2}, seed: 1}"),
    "in params.lock.yaml lora was": lambda place: (place / "params.lock.yaml").unlink(),
    "code.py was edited or replaced": put("code.py", "r = 2"),
    "code.py was removed": lambda place: (place / "code.py").unlink(),
    "inputs/deeper/small.txt was edited or replaced": put("inputs/deeper/small.txt", "b"),
    "inputs/deeper/small.txt was removed; inputs/large.bin was removed": lambda place: shutil.rmtree(place / "inputs"),
    "inputs/large.bin was edited or replaced": lambda place: os.utime(place / "inputs/large.bin"),
    "inputs/more was added": put("inputs/more", ""),
    "gone was added": put("gone", ""),
}


@pytest.mark.parametrize("said", CHANGES)
def test_a_change_while_a_stage_runs_publishes_nothing_and_is_named(stage, said):
    with pytest.raises(UserError) as refused, published(stage / "out") as path:
        path.write_text("result")
        CHANGES[said](stage)
    assert str(refused.value).startswith(f"changed while the stage ran: {said}")
    assert not [path for path in stage.iterdir() if "out" in path.name]


def test_what_changes_nothing_is_published(stage):
    """The same content saved again, another stage's values, Python's caches."""
    (stage / "code.py").write_text("r = 4")
    (stage / "params.lock.yaml").write_text("sft: {lora: {r: 4}, seed: 1}\ndpo: {beta: 0.2}\n")
    (stage / "inputs/__pycache__").mkdir()
    (stage / "inputs/__pycache__/code.pyc").touch()
    with published(stage / "out") as path:
        path.write_text("result")
    assert (stage / "out").read_text() == "result"


def test_a_stage_that_works_elsewhere_is_looked_at_where_it_began(stage, tmp_path, monkeypatch):
    """As probe-base does, in a folder of its own."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path / "scratch")
    with published(Path("out")) as path:
        path.touch()
    (stage / "code.py").write_text("r = 2")
    with pytest.raises(UserError, match=r"code\.py was edited"), published(Path("more")) as path:
        path.touch()


def test_what_was_paid_for_is_kept_all_the_same(stage):
    (stage / "code.py").write_text("r = 2")
    with written_whole(stage / "response.json") as path:
        path.write_text("{}")
    assert (stage / "response.json").is_file()


def test_a_stage_whose_dvc_is_gone_publishes_nothing(stage):
    parent = subprocess.Popen(["sleep", "100"])
    started.started[0].parent = parent.pid
    started.started[0].parent_began = started.process(parent.pid)[0]
    with published(stage / "out") as path:
        path.touch()
    parent.kill()
    while started.process(parent.pid)[0]:
        time.sleep(0.01)  # and nobody waits for it: a zombie is no DVC either
    with pytest.raises(UserError, match="the dvc that started this stage is gone"), published(stage / "more") as path:
        path.touch()
    parent.wait()
    assert not (stage / "more").exists()


def begin_sft(place: Path, *before: str) -> subprocess.Popen[str]:
    """`python -m stages.sft` as DVC starts it, `before` being what stands between; returns when it trains."""
    shutil.copyfile(ROOT / "dvc.yaml", place / "dvc.yaml")
    arguments = arguments_of(Sft(**tiny_training(max_steps=60, checkpoint_minutes=1000.0)))
    (place / "params.lock.yaml").write_text(yaml.safe_dump({"sft": arguments}), encoding="utf-8")
    running = subprocess.Popen(
        [*before, sys.executable, "-m", "stages.sft"],
        cwd=place,
        env={**os.environ, "DVC_STAGE": "sft", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert running.stdout
    for line in running.stdout:
        if "loss" in line:
            break
    return running


@pytest.mark.slow
def test_a_checkout_of_other_values_while_sft_trains_publishes_nothing(place):
    running = begin_sft(place)
    lock = place / "params.lock.yaml"
    lock.write_text(lock.read_text().replace("learning_rate: 0.005", "learning_rate: 0.5"))
    output = running.communicate()[0]
    assert running.returncode == 1
    assert "sft: changed while the stage ran: in params.lock.yaml learning_rate was 0.005 and is 0.5" in output
    assert "Traceback" not in output
    assert not (place / "models/sft").exists()
    assert list(place.glob("cache/graft/checkpoints/sft-*"))  # the training isn't lost


START = "import subprocess, sys; subprocess.run(sys.argv[1:])"


@pytest.mark.slow
@pytest.mark.parametrize("between", [[], ["sh", "-c", '"$@"; true', "sh"]], ids=["directly", "by a shell"])
def test_a_stage_whose_dvc_is_killed_ends_or_publishes_nothing(place, between):
    running = begin_sft(place, sys.executable, "-c", START, *between)
    running.send_signal(signal.SIGKILL)
    output = running.communicate()[0]  # until the orphan closes it
    assert ("stopped by SIGTERM after step" if not between else "the dvc that started this stage is gone") in output
    assert not (place / "models/sft").exists()
