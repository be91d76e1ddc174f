"""Sweep points by DVC's own queue: `dvc queue status`, `dvc queue logs POINT` and `dvc queue kill POINT` work on them.

The queue belongs to the workspace, so a queued point is stashed there for a moment; nothing else of DVC's may run then.
"""

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import yaml

from stages.lib.every_stage.errors import UserError
from tools.lib.dvc_caches import name_cache_in_ascii
from tools.lib.gpus import visible_gpus
from tools.lib.locks import locked, wait_lock
from tools.lib.points import (
    POINTS,
    RUN_RECORDS,
    Point,
    environment,
    experiments,
    failure,
    git,
    prepare_data,
    record,
    refuse_changed_inputs,
    refuse_other_parameters,
    stage_costs,
    untracked_inputs,
)

POLL_SECONDS = 2.0
UNFINISHED = ("Queued", "Running")


def queue_point(point: Point) -> dict[str, Any]:
    """Put a point into DVC's queue, unless it ran before or stands there already.

    Raises UserError where several GPUs are visible: the queue's workers can't be given one each.
    """
    if len(gpus := visible_gpus()) > 1:
        raise UserError(
            f"sweep.queue: found {len(gpus)} GPUs, which every worker of DVC's queue would take; needed one. "
            "Leave sweep.queue out and use hydra/launcher=joblib, or choose one with CUDA_VISIBLE_DEVICES"
        )
    if point.digest in experiments():
        return record(point, "kept")
    prepare_data(point)
    with locked(wait_lock(POINTS / "queue.lock")):
        refuse_changed_inputs(point)
        name_cache_in_ascii()
        if (state := states().get(point.name)) not in UNFINISHED:
            if state:
                dvc("queue", "remove", point.name)
            copied = [word for path in untracked_inputs() for word in ("--copy-paths", path)]
            dvc("exp", "run", "--queue", "--name", point.name, *point.parameters(), *copied)
    return record(point, "queued") | {"sections": point.sections}


def run_queue(outcomes: list[dict[str, Any]], workers: int) -> None:
    """Let `workers` of DVC's queue run what was queued, wait for it, and bring each outcome up to date."""
    points = {outcome["name"]: point_of(outcome) for outcome in outcomes}
    dvc("queue", "start", "--jobs", str(workers))
    orphaned: set[str] = set()  # when it was looked at last
    while waiting := {name: state for name, state in states().items() if name in points and state in UNFINISHED}:
        if "Running" not in waiting.values():  # DVC's workers leave when they find nothing to do
            dvc("queue", "start", "--jobs", str(workers))
        running = {name for name, state in waiting.items() if state == "Running"}
        seen = running if running and not workers_at_work() else set()
        for name in orphaned & seen:  # seen twice: a worker takes its point before it says so
            print(f"{name}: no worker of DVC's queue is at it any more; it is queued again", flush=True)
            requeue(points[name])
        orphaned = seen - orphaned
        time.sleep(POLL_SECONDS)
    for outcome in outcomes:
        outcome.pop("sections")
        outcome |= queued_outcome(points[outcome["name"]])


def point_of(outcome: dict[str, Any]) -> Point:
    """The point that an outcome is of."""
    return Point(outcome["overrides"], outcome["sections"], outcome["inputs"])


def workers_at_work() -> bool:
    """Whether any worker of DVC's queue has a point in hand."""
    from dvc.repo import Repo

    with Repo() as repository:
        return any(tasks for tasks in repository.experiments.celery_queue.worker_status().values())


def requeue(point: Point) -> None:
    """Queue a point again whose worker was killed: DVC counts it as running for ever."""
    for _ in range(3):  # the first ends what the worker left at work, the next has DVC see that nobody is at it
        if states().get(point.name) != "Running":
            break
        dvc("queue", "kill", "--force", point.name, fails=True)
        time.sleep(POLL_SECONDS)
    queue_point(point)


def queued_outcome(point: Point) -> dict[str, Any]:
    """What became of a point that left the queue: done with its costs, or failed with the reason in its log."""
    log = point.place / "dvc.log"
    log.write_text(dvc("queue", "logs", point.name, fails=True), encoding="utf-8")
    try:
        if (commit := experiments().get(point.digest)) is None:
            raise UserError(failure(log.read_text(encoding="utf-8"), log))
        refuse_other_parameters(point, yaml.safe_load(git("show", f"{commit}:params.lock.yaml")))
    except UserError as error:
        return record(point, "failed", reason=str(error))
    return record(point, "done", stages=stage_costs(RUN_RECORDS / point.name))


def states() -> dict[str, str]:
    """Queued, Running, Failed or Success by the name of each experiment that DVC's queue knows."""
    from dvc.repo import Repo

    with Repo() as repository:
        return {task["name"]: task["status"] for task in repository.experiments.celery_queue.status()}


def dvc(*words: str, fails: bool = False) -> str:
    """Run a DVC command and return what it printed. Raises UserError if it fails, unless it may.

    It prints into files: the workers that `dvc queue start` leaves behind hold its output open, and one of them that
    DVC forgets to end would hold a pipe's reader for ever.
    """
    with TemporaryFile() as printed, TemporaryFile() as complained:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *words], env=environment(), stdout=printed, stderr=complained, cwd=Path.cwd()
        )
        texts = []
        for file in (printed, complained):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    if done.returncode and not fails:
        raise UserError(f"dvc {' '.join(words[:2])}: {(texts[1] or texts[0]).strip()}")
    return "".join(texts)
