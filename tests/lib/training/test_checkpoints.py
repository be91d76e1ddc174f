"""Killed at any moment, a run resumes and ends in the same bytes; nothing half-written or another run's is used."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Project, flip_a_bit, stages_run, tiny_training

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import arguments_of, file_sha256
from stages.lib.schema.training import Sft
from stages.lib.training import checkpoints
from stages.lib.training.checkpoints import (
    COMPLETE,
    checkpoint_folder,
    checkpoint_home,
    fingerprint,
    hold,
    is_complete,
    mark_complete,
    newest_complete,
)
from stages.lib.training.run import TrainingRun
from stages.sft import sft


def a_checkpoint(folder: Path, step: int, complete: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(b"x" * 100)
    if complete:
        mark_complete(path)
    return path


def test_the_newest_complete_one_is_taken_and_the_rest_removed(tmp_path):
    assert newest_complete(tmp_path) is None
    a_checkpoint(tmp_path, 9)
    wanted = a_checkpoint(tmp_path, 10)
    half_written = a_checkpoint(tmp_path, 11, complete=False)
    cut = a_checkpoint(tmp_path, 12)
    (cut / "optimizer.pt").write_bytes(b"x" * 99)
    gone = a_checkpoint(tmp_path, 13)
    (gone / "optimizer.pt").unlink()
    garbled = a_checkpoint(tmp_path, 14)
    (garbled / COMPLETE).write_text("{")
    no_names = a_checkpoint(tmp_path, 15)
    (no_names / COMPLETE).write_text("[]")
    assert newest_complete(tmp_path) == wanted
    assert not any(path.exists() for path in (half_written, cut, gone, garbled, no_names))


def test_thirty_flipped_bits_in_a_checkpoint_give_way_to_the_older_one(tmp_path, capsys):
    chance = random.Random(17)
    older = a_checkpoint(tmp_path, 3)
    for number in range(30):
        newer = a_checkpoint(tmp_path, 4)
        path = chance.choice(sorted(newer.iterdir()))
        flip_a_bit(path, chance.randrange(path.stat().st_size), chance.randrange(8))
        assert newest_complete(tmp_path) == older, number
        assert f"{newer}: not what was saved: " in capsys.readouterr().out
        assert not newer.exists()


def test_stray_files_among_checkpoints_are_passed_over_and_removed(tmp_path):
    wanted = a_checkpoint(tmp_path, 3)
    (tmp_path / "checkpoint-99").touch()
    (tmp_path / "checkpoint-abc").mkdir()
    (tmp_path / "checkpoint-7").symlink_to("/nonexistent")
    (tmp_path / "notes.txt").touch()
    assert newest_complete(tmp_path) == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "notes.txt"]


def test_files_in_folders_of_a_checkpoint_are_looked_at(tmp_path):
    """FSDP saves weights and optimizer as folders."""
    path = tmp_path / "checkpoint-2"
    (path / "optimizer_0").mkdir(parents=True)
    (path / "optimizer_0/__0_0.distcp").write_bytes(b"abc")
    mark_complete(path)
    flip_a_bit(path / "optimizer_0/__0_0.distcp", 1)
    assert newest_complete(tmp_path) is None


def test_checkpoints_are_for_their_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    checkpoint_home().mkdir(parents=True, mode=0o755)
    with checkpoint_folder("sft", {}) as folder:
        assert [path.stat().st_mode & 0o777 for path in (checkpoint_home(), folder)] == [0o700, 0o700]


@pytest.mark.parametrize("end", [{"max_steps": 3}, {"max_steps": -1, "num_train_epochs": 0.03}], ids=str)
def test_a_run_killed_after_its_last_step_trains_no_further(place, monkeypatch, end):
    """Three times, between the last checkpoint and publishing; with a whole number of steps and a part of an epoch."""
    plain = TrainingRun.publish
    section = Sft(**tiny_training(**end, checkpoint_minutes=0.0))
    taken: list[int] = []

    def die(self: TrainingRun, trainer: Any, *_: Any) -> None:
        taken.append(trainer.state.global_step)
        raise KeyboardInterrupt

    for _ in range(3):
        monkeypatch.setattr(TrainingRun, "publish", die)
        with pytest.raises(KeyboardInterrupt):
            sft(section, place / "killed")
    monkeypatch.setattr(TrainingRun, "publish", plain)
    sft(section, place / "killed")
    sft(section, place / "whole")
    assert len(taken) == 3 and set(taken) <= {2, 3}
    for name in ("models/sft/adapter_model.safetensors", "metrics/sft_log.csv"):
        assert file_sha256(place / "killed" / name) == file_sha256(place / "whole" / name)


def test_the_fingerprint_follows_what_the_result_depends_on():
    assert fingerprint({"r": 8, "data": "a"}) == fingerprint({"data": "a", "r": 8})
    assert fingerprint({"r": 8}) != fingerprint({"r": 9})


def test_the_fingerprint_follows_the_code_of_every_stage_and_room(tmp_path, monkeypatch):
    assert (checkpoints.CODE / "sft.py").is_file()
    code = tmp_path / "stages"
    shutil.copytree(checkpoints.CODE, code)
    monkeypatch.setattr(checkpoints, "CODE", code)
    seen = {fingerprint({})}
    for module in ("config.py", "lib/errors.py", "lib/schema/config.py"):
        (code / module).write_text("changed = True")
        seen.add(fingerprint({}))
    assert len(seen) == 4


def test_two_runs_at_once_get_a_folder_each_and_an_end_removes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with checkpoint_folder("sft", {}) as first, checkpoint_folder("sft", {}) as second:
        assert first != second
    assert list(checkpoint_home().iterdir()) == []
    with pytest.raises(RuntimeError), checkpoint_folder("sft", {}) as third:
        raise RuntimeError
    assert third == first
    assert third.is_dir()  # the next run of the same finds it


def test_runs_that_make_and_remove_one_folder_at_once_do_not_fail(tmp_path):
    """Three processes, a thousand times each: one removes it between another's making and opening it."""
    context = multiprocessing.get_context("fork")

    def take_and_end() -> None:
        for _ in range(1000):
            if (held := hold(tmp_path / "sft-1.1")) is not None:
                shutil.rmtree(tmp_path / "sft-1.1")
                os.close(held)

    runs = [context.Process(target=take_and_end) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0, 0]


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="can't be written"), checkpoint_folder("sft", {}):
        pass


def test_a_run_stopped_between_two_logged_steps_ends_in_the_same_bytes_and_log(place, monkeypatch):
    """SIGTERM after step 2 and after step 5, where each third step is logged; nothing else is saved."""

    def stop(trainer: Any) -> None:
        from transformers import TrainerCallback

        class Stop(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step in stops:
                    stops.remove(state.global_step)
                    os.kill(os.getpid(), signal.SIGTERM)

        trainer.add_callback(Stop())

    monkeypatch.setattr("stages.lib.training.run.report_progress", stop)
    section = Sft(**tiny_training(max_steps=7, logging_steps=3, checkpoint_minutes=1000.0))
    stops = {1, 4}
    for saved_step in (2, 5):
        with pytest.raises(SystemExit) as end:
            sft(section, place / "stopped")
        assert end.value.code == 128 + signal.SIGTERM
        (folder,) = checkpoint_home().glob("sft-*")
        assert newest_complete(folder).name == f"checkpoint-{saved_step}"
    for name in ("stopped", "whole"):
        sft(section, place / name)
    adapters = [place / name / "models/sft/adapter_model.safetensors" for name in ("stopped", "whole")]
    assert file_sha256(adapters[0]) == file_sha256(adapters[1])
    logs = [(place / name / "metrics/sft_log.csv").read_text().splitlines() for name in ("stopped", "whole")]
    assert [line.split(",")[0] for line in logs[0]] == ["step", "3", "6", "7"]
    for stopped, whole in zip(logs[0][1:], logs[1][1:], strict=True):
        assert [float(x) for x in stopped.split(",")] == pytest.approx([float(x) for x in whole.split(",")], abs=2e-6)


def test_checkpoints_by_time_fall_on_logged_steps(place, monkeypatch):
    """A step between two would cut a mean in two; each is due at every step here."""
    saved: list[str] = []
    mark = checkpoints.mark_complete
    monkeypatch.setattr(checkpoints, "mark_complete", lambda path: [saved.append(path.name), mark(path)])
    sft(Sft(**tiny_training(max_steps=7, logging_steps=3, checkpoint_minutes=0.0)), place)
    assert saved == ["checkpoint-3", "checkpoint-6", "checkpoint-7"]


def lock(place: Path, **changes: object) -> dict[str, str]:
    """Write params.lock.yaml with an sft section for the tiny model; the environment that DVC would give the stage."""
    arguments = arguments_of(Sft(**tiny_training(**changes)))
    (place / "params.lock.yaml").write_text(yaml.safe_dump({"sft": arguments}), encoding="utf-8")
    return {**os.environ, "DVC_STAGE": "sft", "PYTHONPATH": str(ROOT)}


def start_sft(place: Path, **changes: object) -> subprocess.Popen:
    """`python -m stages.sft` as DVC starts it, with a checkpoint after every step."""
    environment = lock(place, **{"max_steps": 12, "checkpoint_minutes": 0.0, **changes})
    command = [sys.executable, "-m", "stages.sft"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=place, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def saved(project: Project) -> dict[int, Path]:
    """The checkpoints that there are, by step. One run at a time means one folder: a stage that had outlived its kill
    would hold it, and the next run would take another."""
    folders = list(project.cache.glob("graft/checkpoints/sft-*"))
    assert len(folders) <= 1
    return {int(path.name.split("-")[1]): path for folder in folders for path in folder.glob("checkpoint-*")}


def kill_repro(project: Project, moment: Callable[[], bool]) -> None:
    """Run `dvc repro sft`, and kill it and its stage by SIGKILL as soon as `moment` is there.

    They are stopped for the last look, so that what `moment` saw is still so when they die.
    """
    command, log = ["dvc", "repro", "sft"], project.directory.with_suffix(".log")
    with log.open("w") as output:
        running = subprocess.Popen(
            command,
            cwd=project.directory,
            env=project.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.time() + 600
    while True:
        assert running.poll() is None, f"it ended before it could be killed\n{log.read_text()}"
        assert time.time() < deadline, log.read_text()
        if moment():
            os.killpg(running.pid, signal.SIGSTOP)
            if moment():
                break
            os.killpg(running.pid, signal.SIGCONT)
        time.sleep(0.0005)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()


@pytest.mark.slow
def test_killed_five_times_the_adapter_is_that_of_an_uninterrupted_run(tiny_model, tmp_path):
    """`dvc repro` and its stage die at four random moments of training and while a checkpoint is being written."""
    project = Project(tmp_path / "project", tiny_model)
    project.write("params.yaml", "sft: {max_steps: 4", "sft: {checkpoint_minutes: 0, logging_steps: 1, max_steps: 24")
    chance = random.Random(7)
    for step in sorted(chance.sample(range(1, 20), 4)):
        reached: list[float] = []
        delay = chance.uniform(0, 0.15)

        def some_time_after(step=step, reached=reached, delay=delay) -> bool:
            if not reached and max(saved(project), default=0) >= step:
                reached.append(time.monotonic())
            return bool(reached) and time.monotonic() - reached[0] >= delay

        kill_repro(project, some_time_after)
        complete = [step for step, path in saved(project).items() if is_complete(path)]
        assert max(complete, default=0) >= step - 1  # a kill costs a step, not the run
        assert not (project.directory / "models/sft").exists()

    before = max(saved(project))

    def being_written() -> bool:
        """Whether the newest checkpoint is this run's and lacks its marker."""
        newest = max(saved(project), default=0)
        return newest > before and not (saved(project)[newest] / COMPLETE).exists()

    kill_repro(project, being_written)
    assert being_written()
    output = project.command("dvc", "repro", "sft")
    assert stages_run(output) == ["sft"]
    assert "resumes from checkpoint-" in output
    assert saved(project) == {}
    outputs = ("models/sft/adapter_model.safetensors", "models/sft/lineage.json", "metrics/sft_log.csv")
    ended = {name: file_sha256(project.directory / name) for name in outputs}
    again = project.command("dvc", "repro", "--force", "--single-item", "sft")
    assert stages_run(again) == ["sft"]
    assert "resumes from" not in again
    assert {name: file_sha256(project.directory / name) for name in outputs} == ended


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_leave_a_complete_checkpoint_and_publish_nothing(place, number):
    running = start_sft(place, max_steps=5000, checkpoint_minutes=1000.0)
    for line in running.stdout:
        if "loss" in line:
            break
    running.send_signal(number)
    output = running.communicate()[0]
    assert running.returncode == 128 + number
    assert f"stopped by {number.name} after step" in output
    assert "Traceback" not in output
    assert not (place / "models/sft").exists()
    (folder,) = place.glob("cache/graft/checkpoints/sft-*")
    assert newest_complete(folder) is not None


@pytest.mark.slow
def test_a_disk_that_is_full_is_a_clear_error_with_nothing_half_published(place):
    """A limit on the size of files stands in for it: the kernel refuses the write in the same place."""
    code = """if True:
        import resource, runpy, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        runpy.run_module("stages.sft", run_name="__main__")"""
    for minutes in (0.0, 1000.0):  # full while a checkpoint is written; full while the adapter is
        environment = lock(place, max_steps=2, checkpoint_minutes=minutes)
        done = subprocess.run([sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        assert "can't be written" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        assert not (place / "models/sft").exists()


def test_the_marker_names_every_file(tmp_path):
    path = a_checkpoint(tmp_path, 1)
    digest = file_sha256(path / "optimizer.pt")
    assert json.loads((path / COMPLETE).read_text(encoding="utf-8")) == {"optimizer.pt": digest}
