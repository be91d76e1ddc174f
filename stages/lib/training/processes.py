"""A stage as one of several processes: which of them it is, what they agree on, and what the launching one is told.

The main one writes; what the others write is thrown away. launcher.py has accelerate start them.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.started import Started, end_with_us, started

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import DataclassInstance

Stage = Callable[[Any, Path], dict[str, Any]]

LAST_WORDS_SECONDS = 10.0
"""How long a process that fails waits for the others to say the same, before the launcher is told to end them."""


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
    """Whether the weights are sharded over the processes (FSDP)."""
    return started_by_launcher() and os.environ.get("ACCELERATE_USE_FSDP") == "true"


@functools.cache
def group() -> Any:
    """A process group on the CPU beside the trainer's own: what is agreed on never waits for a GPU."""
    import torch.distributed
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())  # accelerate's group, and this process's own GPU
    return torch.distributed.new_group(backend="gloo")


def from_main(value: object) -> Any:
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


def run_one_of_several(stage: Stage, section: DataclassInstance, root: Path) -> dict[str, Any]:
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

    Where all processes fail in the same way, as with a step that is too large, they end quietly: the message is the
    launching one's. Where one fails alone, its status tells the launcher to end the others.
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


def say(scratch: Path, words: Mapping[str, object]) -> None:
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
        started[:] = [Started(**begun) for begun in told["started"]]
        kind = Config.__annotations__[told["stage"]]
        section = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), told["section"]))
        stage = getattr(importlib.import_module(f"stages.{told['stage']}"), told["stage"])
        words["facts"] = stage(section, Path(told["root"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
