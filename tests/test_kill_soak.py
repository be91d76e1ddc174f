"""Killed at any moment, training ends in the same bytes, and no stage is left half-done or stuck; `make soak`.

Training is killed in processes that are forked from a server, in which torch is imported already and has computed
nothing: forked from this one they would wait for threads that OpenMP has here and not there. The other stages are
killed with the `dvc repro` that runs them.
"""

import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, flip_a_bit, tiny_training

from stages.dpo import dpo
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import file_sha256, refuse_damaged
from stages.lib.schema.merging import Merge
from stages.lib.schema.training import Dpo, Sft
from stages.lib.training.checkpoints import COMPLETE, checkpoint_home
from stages.merge import merge
from stages.sft import sft

pytestmark = [pytest.mark.slow, pytest.mark.soak]
STEPS = 8
SECTIONS: dict[str, tuple[Any, Any]] = {
    "sft": (sft, Sft(**tiny_training(max_steps=STEPS, logging_steps=3, checkpoint_minutes=0.0))),
    "dpo": (dpo, Dpo(**tiny_training(max_steps=STEPS, logging_steps=1, checkpoint_minutes=0.0, beta=0.5))),
}
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "transformers", "peft", "trl", "bitsandbytes", "stages.sft", "stages.dpo"])
MOMENTS = ("any", "a checkpoint is written", "the last step is over", "the model is published")


def train(name: str, place: Path) -> None:
    stage, section = SECTIONS[name]
    with open(place / f"{name}.log", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        stage(section, place)


def start(name: str, place: Path) -> BaseProcess:
    """One of the two stages, in a process of its own."""
    process = FORKS.Process(target=train, args=(name, place))
    process.start()
    return process


def whole(name: str, place: Path) -> None:
    """Run a stage to its end."""
    process = start(name, place)
    process.join()
    assert process.exitcode == 0, (place / f"{name}.log").read_text()[-3000:]


def outputs(name: str, place: Path) -> dict[str, str]:
    """SHA-256 of all that a stage published."""
    files = [path for path in (place / f"models/{name}").rglob("*") if path.is_file()]
    return {str(path.relative_to(place)): file_sha256(path) for path in [*files, place / f"metrics/{name}_log.csv"]}


def checkpoints(name: str) -> list[Path]:
    return list(checkpoint_home().glob(f"{name}-*/checkpoint-*"))


def come(moment: str, name: str, place: Path, due: float) -> bool:
    """Whether the moment to kill is there."""
    if moment == "a checkpoint is written":
        return any(not (path / COMPLETE).exists() for path in checkpoints(name))
    if moment == "the last step is over":
        return any(path.name == f"checkpoint-{STEPS}" and (path / COMPLETE).exists() for path in checkpoints(name))
    if moment == "the model is published":
        return any(True for _ in place.glob(f"models/.{name}.*.writing"))
    return time.monotonic() >= due


def test_fifty_kills_of_training_end_in_the_same_bytes_fifty_times(place):
    chance = random.Random(17)
    whole("sft", place)
    merging = FORKS.Process(target=merge, args=(Merge(), place))
    merging.start()
    merging.join()
    began = time.monotonic()
    whole("dpo", place)
    seconds = time.monotonic() - began
    wanted = {name: outputs(name, place) for name in SECTIONS}
    killed: Counter[tuple[str, str]] = Counter()
    while sum(killed.values()) < 50:
        number = sum(killed.values())
        name, moment = ("sft", "dpo")[number % 2], MOMENTS[number // 2 % 4]
        for path in place.glob(f"models/{name}/*"):
            path.unlink()
        for _ in range(chance.choice((1, 1, 2))):  # some twice in one run
            process = start(name, place)
            due = time.monotonic() + chance.uniform(0, seconds)
            while process.is_alive() and not come(moment, name, place, due):
                time.sleep(0.0002)
            time.sleep(chance.choice((0, 0.002, 0.02)))
            process.kill()
            process.join()
            killed[name, moment] += process.exitcode == -signal.SIGKILL
        whole(name, place)
        assert outputs(name, place) == wanted[name], (number, name, moment)
        assert checkpoints(name) == []
        assert not list(place.glob("*/.*.writing")) + list(place.glob("*/.*.old"))
    assert {moment for _, moment in killed} == set(MOMENTS)
    print(killed)


OTHERS = [
    "config",
    "prepare-base",
    "probe-base",
    "prepare-ultrachat",
    "prepare-pdf-qa",
    "prepare-preferences",
    "merge",
    "sample-preferences",
    "merge-dpo",
]
OTHERS += ["evaluate", "judge", "report"]


def group(project: Project, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        cwd=project.directory,
        env=project.environment(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_twenty_kills_of_the_other_stages_leave_none_half_and_none_stuck(tiny_model, tmp_path):
    project = Project(tmp_path / "project", tiny_model)
    project.repro()
    project.commit("first run")
    chance = random.Random(5)
    seconds: dict[str, float] = {}
    for number in range(20):
        stage = OTHERS[number % len(OTHERS)]
        command = ("dvc", "repro", "--force", "--single-item", stage)
        if stage not in seconds:
            began = time.monotonic()
            project.command(*command)
            seconds[stage] = time.monotonic() - began
        running = group(project, *command)
        time.sleep(chance.uniform(0.3, 1) * seconds[stage])
        if chance.random() < 0.3:
            running.kill()  # dvc alone
        else:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        project.command("python", "-m", "tools.repair")
        output = project.command("dvc", "repro")
        assert "up to date" in project.command("dvc", "status"), (stage, output)
        assert project.command("git", "status", "--porcelain") == "", (stage, output)
        left = [path for folder in ("models", "metrics", "data/prepared") for path in
                (project.directory / folder).glob(".*.writing")]  # fmt: skip
        for path in left:  # a killed stage leaves it beside its place, and goes when that is published again
            assert path.name.startswith(".")


def test_thirty_flipped_bits_in_models_are_noticed_thirty_times(project):
    chance = random.Random(3)
    kinds: list[Callable[[], Path]] = [lambda name=name: project.directory / "models" / name
                                       for name in ("sft", "sft-merged", "dpo", "dpo-merged", "base")]  # fmt: skip
    for number in range(30):
        directory = kinds[number % len(kinds)]()
        path = chance.choice(sorted(path for path in directory.iterdir() if path.is_file()))
        place, bit = chance.randrange(path.stat().st_size), chance.randrange(8)
        flip_a_bit(path, place, bit)
        try:
            with pytest.raises(UserError, match="what its stage wrote|what was written"):
                refuse_damaged(directory)
        finally:
            flip_a_bit(path, place, bit)
        refuse_damaged(directory)
