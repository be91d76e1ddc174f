"""One stage in several processes, one for each GPU: started by accelerate's launcher, held together by its group.

The stage itself stays one function. Where its section asks for several processes (distributed), `on_all_gpus` hands
section and root to accelerate's launcher, with one of its own configurations in conf/accelerate, and waits. Each of
the processes that it starts runs the same function; the main one writes, what the others write is thrown away.
"""

import ctypes
import functools
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import psutil

from stages.lib.errors import UserError
from stages.lib.schema.choices import Distributed
from stages.lib.schema.training import Orpo, Training

Stage = Callable[[Any, Path], dict[str, Any]]

CODE = Path(__file__).parents[3]
LAST_WORDS_SECONDS = 10.0
"""How long a process that fails waits for the others to say the same, before the launcher is told to end them."""


def on_all_gpus(configs: Path) -> Callable[[Stage], Stage]:
    """Let a training stage run in as many processes as its section asks for, by accelerate.

    `configs` is the folder with accelerate's configurations. The stage returns what it returns in the main process,
    and raises what it raises there or in another one.
    """

    def decorate(stage: Stage) -> Stage:
        @functools.wraps(stage)
        def run(section: Any, root: Path) -> dict[str, Any]:
            if started_by_launcher():
                return run_one_of_several(stage, section, root)
            off = isinstance(section, Orpo) and not section.enabled
            alone = off or section.distributed is Distributed.none
            processes = 1 if alone else count_processes(section, visible_gpus())
            if processes > 1:
                return launch(section, root, processes, configs)
            # In one process that sees several GPUs trl's trainers refuse to train; its ORPO gives each of them a batch.
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
    from stages.lib.lineage import arguments_of
    from stages.lib.training.sharing import decide_sharing

    name = section_name(section)
    sharing, why = decide_sharing(section, importlib.import_module(f"stages.{name}").BASE, processes)
    print(f"{name}: {processes} processes by accelerate, {sharing.value}: {why}", flush=True)
    with TemporaryDirectory(prefix=f"graft-{name}-") as scratch:
        told = {"stage": name, "section": arguments_of(section), "root": str(root.absolute())}
        (Path(scratch) / "told.json").write_text(json.dumps(told), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            *("--config_file", str(configs / f"{sharing.value}.yaml")),
            *("--num_processes", str(processes), "--main_process_port", "0"),
            *("-m", "stages.lib.training.processes", scratch),
        ]
        status = wait_for(subprocess.Popen(command, env=environment(), start_new_session=True, preexec_fn=end_with_us))
        return result(name, Path(scratch), status)


def environment() -> dict[str, str]:
    """What the launcher and its processes are told: this very code, and to stay on the CPU where there is no GPU."""
    paths = [str(CODE), os.environ.get("PYTHONPATH", "")]
    told = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    return {**os.environ, **told, **({} if visible_gpus() else {"ACCELERATE_USE_CPU": "true"})}


def end_with_us() -> None:
    """Have the kernel send this process SIGTERM when its parent dies, however that comes about."""
    pr_set_pdeathsig = 1  # sys/prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def wait_for(launcher: "subprocess.Popen[bytes]") -> int:
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


def result(name: str, scratch: Path, status: int) -> dict[str, Any]:
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
            f"{name}: accelerate ended with status {status} since one of its processes did; its reason stands above. "
            "Checkpoints are kept: mend it and run again"
        )
    return facts


# In each of the processes


def started_by_launcher() -> bool:
    """Whether accelerate's (or torch's) launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def count() -> int:
    """How many processes share the work, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def count_here() -> int:
    """How many of them run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def sharded() -> bool:
    """Whether the weights are spread over the processes (FSDP)."""
    return started_by_launcher() and os.environ.get("ACCELERATE_USE_FSDP") == "true"


@functools.cache
def group() -> Any:
    """A process group on the CPU beside the trainer's own: what is agreed on never waits for a GPU."""
    import torch.distributed
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())  # accelerate's group, and this process's own GPU
    return torch.distributed.new_group(backend="gloo")


def from_main(value: Any) -> Any:
    """The main process's `value`, in all of them."""
    return from_all(value)[0]


def from_all(value: Any) -> list[Any]:
    """Each process's `value`, in order, in all of them. It waits for all."""
    if not started_by_launcher():
        return [value]
    import torch.distributed

    values = [None] * count()
    torch.distributed.all_gather_object(values, value, group=group())
    return values


def run_one_of_several(stage: Stage, section: Any, root: Path) -> dict[str, Any]:
    """Run `stage` in this process, one of several. Only the main one returns; the others end the process well.

    What the others write goes to a folder that is removed, what they print is not shown.
    """
    import torch.distributed

    if not is_main():
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # the main process says it
    group()
    if is_main():
        facts = stage(section, root)
        torch.distributed.destroy_process_group()
        return {**facts, "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    with TemporaryDirectory(prefix="graft-") as scratch, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        stage(section, Path(scratch))
    torch.distributed.destroy_process_group()
    raise SystemExit(0)


@contextmanager
def last_words(scratch: Path) -> Iterator[dict[str, Any]]:
    """Leave what becomes of this process in `scratch` for the one that launched it.

    Where all processes fail alike, as with a step that is too large, they end quietly: the message is the launching
    one's. Where one fails alone, its status tells the launcher to end the others.
    """
    words: dict[str, Any] = {}
    try:
        yield words
        if is_main():
            say(scratch, words)
        return
    except UserError as error:
        words = {"error": str(error)}
    except KeyboardInterrupt:
        words = {"interrupted": True}
    except SystemExit as end:
        if not end.code:
            return
        words = {"status": end.code}
    say(scratch, words)
    deadline = time.monotonic() + LAST_WORDS_SECONDS
    while len(list(scratch.glob("said-*.json"))) < count_here():
        if time.monotonic() > deadline:
            sys.exit(1)
        time.sleep(0.05)


def say(scratch: Path, words: dict[str, Any]) -> None:
    writing = scratch / f".{os.getpid()}"
    writing.write_text(json.dumps(words), encoding="utf-8")
    os.replace(writing, scratch / f"said-{int(os.environ['RANK']):04}.json")


def main(scratch: Path) -> None:
    """One of the processes that `launch` had started, as it told them in `scratch`."""
    from omegaconf import OmegaConf

    from stages.lib.schema.config import Config

    end_with_us()
    with last_words(scratch) as words:
        told = json.loads((scratch / "told.json").read_text(encoding="utf-8"))
        kind = Config.__annotations__[told["stage"]]
        section = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), told["section"]))
        stage = getattr(importlib.import_module(f"stages.{told['stage']}"), told["stage"])
        words["facts"] = stage(section, Path(told["root"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
