"""One stage in several processes, one for each GPU, started by accelerate's launcher.

The stage itself stays one function. Where its section asks for several processes (distributed), `on_all_gpus` hands
section and root to accelerate's launcher, with one of its own configurations in conf/accelerate, and waits. Each of
the processes that it starts (processes.py) runs the same function.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.started import end_with_us, started
from stages.lib.schema.choices import Distributed
from stages.lib.schema.training import Preference, Training
from stages.lib.training.processes import Stage, run_one_of_several, started_by_launcher

if TYPE_CHECKING:
    pass

CODE = Path(__file__).parents[3]


def on_all_gpus(configs: Path) -> Callable[[Stage], Stage]:
    """Let a training stage run in as many processes as its section asks for, by accelerate.

    `configs` is the folder with accelerate's configurations. The stage returns what it returns in the main process,
    and raises what it raises there or in another one.
    """

    def decorate(stage: Stage) -> Stage:
        @functools.wraps(stage)
        def run(section: Training, root: Path) -> dict[str, Any]:
            if started_by_launcher():
                return run_one_of_several(stage, section, root)
            off = isinstance(section, Preference) and not section.enabled
            alone = off or section.distributed is Distributed.none
            processes = 1 if alone else count_processes(section, visible_gpus())
            if processes > 1:
                return launch(section, root, processes, configs)
            # In one process that sees several GPUs trl's trainers refuse to train; ORPO's and CPO's give each a batch.
            os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
            return stage(section, root)

        return run

    return decorate


def visible_gpus() -> int:
    """How many GPUs this process may use."""
    import torch

    return torch.cuda.device_count()


def count_processes(section: Training, gpus: int) -> int:
    """How many processes share a step of `section`, which asks for several, where `gpus` are visible.

    As asked; for 0 as many as there are GPUs, but no more than the rows of a step can be dealt to evenly. Raises
    UserError for more than there are GPUs, unless there is none: several processes on a CPU are for trying it out.
    """
    if gpus and section.processes > gpus:
        raise UserError(
            f"{section_name(section)}.processes: found {section.processes}, but {gpus} GPUs are visible; needed at "
            "most as many. Set 0 for all"
        )
    most = min(gpus or 1, section.batch_size)
    return section.processes or next(count for count in range(most, 0, -1) if section.batch_size % count == 0)


def section_name(section: Training) -> str:
    """The name of a section's stage."""
    return type(section).__name__.lower()


def launch(section: Training, root: Path, processes: int, configs: Path) -> dict[str, Any]:
    """Run the stage of `section` in `processes` processes by `accelerate launch`, and wait for their end.

    Returns the main process's facts. SIGINT and SIGTERM go on to the processes, which finish their step and save.
    Raises what they raised: UserError, KeyboardInterrupt, SystemExit with the status of a stop by a signal.
    """
    from stages.lib.every_stage.lineage import arguments_of
    from stages.lib.training.sharing import decide_sharing

    name = section_name(section)
    sharing, why = decide_sharing(section, importlib.import_module(f"stages.{name}").BASE, processes)
    print(f"{name}: {processes} processes by accelerate, {sharing.value}: {why}", flush=True)
    with TemporaryDirectory(prefix=f"graft-{name}-") as scratch:
        told: dict[str, Any] = {"stage": name, "section": arguments_of(section), "root": str(root.absolute())}
        told["started"] = [asdict(begun) for begun in started]
        (Path(scratch) / "told.json").write_text(json.dumps(told), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            *("--config_file", str(configs / f"{sharing.value}.yaml")),
            *("--num_processes", str(processes), "--main_process_port", "0"),
            *("-m", "stages.lib.training.processes", scratch),
        ]
        status = wait_for(subprocess.Popen(command, env=environment(), start_new_session=True, preexec_fn=end_with_us))
        return result(Path(scratch), status)


def environment() -> dict[str, str]:
    """What the launcher and its processes are told: this very code, and to stay on the CPU where there is no GPU."""
    paths = [str(CODE), os.environ.get("PYTHONPATH", "")]
    told = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    return {**os.environ, **told, **({} if visible_gpus() else {"ACCELERATE_USE_CPU": "true"})}


def wait_for(launcher: subprocess.Popen[bytes]) -> int:
    """Wait for the launcher's end; its status, or minus the number of the signal that ended it.

    SIGINT and SIGTERM go to the processes that it started, not to itself: it would give them half a minute.
    """
    caught: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        try:
            started = psutil.Process(launcher.pid).children()
            for process in started or [psutil.Process(launcher.pid)]:
                process.send_signal(number)
        except psutil.NoSuchProcess:
            pass  # it ended meanwhile

    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = launcher.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return -caught[0] if status and caught else status


def result(scratch: Path, status: int) -> dict[str, Any]:
    """What the processes left in `scratch`: the main one's facts, or what went wrong in the first one that says so."""
    said = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(scratch.glob("said-*.json"))]
    for words in said:
        if "error" in words:
            raise UserError(words["error"])
    for words in said:
        if "status" in words:
            raise SystemExit(words["status"])
    if status < 0 or any("interrupted" in words for words in said):
        if -status == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt
    facts = next((words["facts"] for words in said if "facts" in words), None)
    if status or facts is None:
        raise UserError(
            f"accelerate ended with status {status} because a process failed; its reason is above. "
            "Checkpoints are kept: fix it and run again"
        )
    return facts
