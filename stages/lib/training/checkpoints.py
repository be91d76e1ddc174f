"""A crash costs minutes, not the run: checkpoints from which training resumes and ends in the same bytes.

They are in <cache>/graft/checkpoints/<stage>-<fingerprint>.<n>/, where <cache> is $XDG_CACHE_HOME or ~/.cache: DVC
removes a stage's outs before it runs it, and an experiment in a temporary folder throws that folder away. The
fingerprint covers everything that the result depends on, so that a checkpoint of other data or code is never taken up.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import count
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.lineage import file_sha256
from stages.lib.every_stage.publish import explain_disk_errors, make_private_folder, remove
from stages.lib.training.processes import from_all, from_main, is_main
from stages.lib.training.trl_trainer import TrlTrainer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import TrainerControl, TrainerState, TrainingArguments

COMPLETE = "complete.json"
"""Written last into a checkpoint: its files' SHA-256. A folder without it was being written when killed."""

NAME = re.compile(r"checkpoint-(\d+)")
ATTEMPTS = 100
"""To make a folder that another process removes as often at that moment."""

CODE = Path(__file__).parents[2]
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets")


def fingerprint(content: Mapping[str, object]) -> str:
    """16 hexadecimal digits over `content` (plain values), Graft's own code and the versions of the libraries."""
    modules = sorted(CODE.rglob("*.py"))
    code = {str(path.relative_to(CODE)): hashlib.sha256(path.read_bytes()).hexdigest() for path in modules}
    environment = {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}
    text = json.dumps([content, code, environment], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def checkpoint_home() -> Path:
    """Where checkpoints of all runs are, an absolute path."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "graft" / "checkpoints"


@contextmanager
def checkpoint_folder(stage: str, content: Mapping[str, object]) -> Iterator[Path]:
    """A folder for the checkpoints of this very run, held by this process alone; removed if the block ends well.

    A second run of the same at the same time gets the next folder, so that neither reads what the other writes.
    Raises UserError where no folder can be made.
    """
    name = f"{stage}-{fingerprint(content)}"
    with explain_disk_errors(checkpoint_home() / name):
        make_private_folder(checkpoint_home())
        folders = (checkpoint_home() / f"{name}.{number}" for number in count(1))
        folder, held = next((folder, held) for folder in folders if (held := hold(folder)) is not None)
    try:
        yield folder
        shutil.rmtree(folder)
    finally:
        os.close(held)


def hold(folder: Path) -> int | None:
    """Make `folder` and lock it; the open descriptor that holds the lock, or None where another process has it."""
    for left in reversed(range(ATTEMPTS)):
        try:
            make_private_folder(folder)
            held = os.open(folder, os.O_RDONLY)
        except (FileNotFoundError, FileExistsError):  # its owner removed it in between
            if not left:
                raise
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(held), os.stat(folder)):
                return held
        except BlockingIOError:
            os.close(held)
            return None
        except FileNotFoundError:
            pass
        os.close(held)  # removed in between, and perhaps made again
    return None


def newest_complete(folder: Path) -> Path | None:
    """The checkpoint to resume from, or None. Whatever else is there by such a name is removed: the trainer would
    take it up or count it. What was complete and is damaged now is said.
    """
    found = {path: int(named[1]) for path in folder.glob("checkpoint-*") if (named := NAME.fullmatch(path.name))}
    for path in set(folder.glob("checkpoint-*")) - set(found):
        remove(path)
    for path in sorted(found, key=found.__getitem__, reverse=True):
        if not (path / COMPLETE).is_file():
            remove(path)
        elif damaged := damaged_files(path):
            print(f"{path}: not what was saved: {', '.join(damaged)}; it is left out and removed", flush=True)
            remove(path)
        else:
            return path
    return None


def damaged_files(checkpoint: Path) -> list[str]:
    """The files of a checkpoint whose content isn't what its marker says, the marker itself if it can't be read."""
    try:
        digests = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    except ValueError:
        return [COMPLETE]
    if not isinstance(digests, dict) or not digests:
        return [COMPLETE]
    paths = {name: checkpoint / name for name in digests}
    return [name for name, path in paths.items() if not path.is_file() or file_sha256(path) != digests[name]]


def is_complete(checkpoint: Path) -> bool:
    """Whether every file that the marker names is there, and is what was saved."""
    return (checkpoint / COMPLETE).is_file() and not damaged_files(checkpoint)


def mark_complete(checkpoint: Path) -> None:
    """Write the marker, as the last file, in one rename."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    digests = {str(path.relative_to(checkpoint)): file_sha256(path) for path in files}
    writing = checkpoint / f".{COMPLETE}"
    writing.write_text(json.dumps(digests, indent=1), encoding="utf-8")
    os.replace(writing, checkpoint / COMPLETE)


class AtTheEnd(Exception):
    """The checkpoint that was loaded is that of the last step."""


def train_with_checkpoints(trainer: TrlTrainer, folder: Path, minutes: float) -> None:
    """Train to the end, from the newest complete checkpoint in `folder` if there is one.

    Saves where the trainer logs and `minutes` have passed, so that a resumed run logs the same means. Ctrl-C and
    SIGTERM finish the step, save, and end the process with status 128 + the signal's number; a second one ends it at
    once. Raises UserError if the disk is full.
    """
    from transformers import TrainerCallback

    caught: list[int] = []

    class Save(TrainerCallback):
        saved = time.monotonic()

        def on_train_begin(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
        ) -> None:
            # transformers looks for the end after a step alone: it would take one more.
            if state.global_step >= state.max_steps:
                raise AtTheEnd

        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
        ) -> None:
            # Signals and clocks differ between processes: all save, and all stop, where one of them would.
            everywhere = from_all((list(caught), time.monotonic() - self.saved >= 60 * minutes))
            caught[:] = next((signals for signals, _ in everywhere if signals), caught)
            if control.should_log and any(due for _, due in everywhere):
                control.should_save = True
            if caught:
                control.should_log = control.should_save = control.should_training_stop = True

        def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
            from_all(None)  # each process has written its part
            if is_main():
                mark_complete(folder / f"checkpoint-{state.global_step}")
            self.saved = time.monotonic()

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, previous[number])

    trainer.add_callback(Save())
    checkpoint = from_main(newest_complete(folder) if is_main() else None)
    if checkpoint:
        print(f"resumes from {checkpoint.name} of an earlier run", flush=True)
    previous: dict[int, Any] = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with explain_disk_errors(folder):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except AtTheEnd:  # with weights and history loaded, and nothing left to train
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if caught and trainer.state.global_step < trainer.state.max_steps:
        if is_main():
            print(
                f"stopped by {signal.Signals(caught[0]).name} after step {trainer.state.global_step} of "
                f"{trainer.state.max_steps}; nothing was published. `dvc repro` resumes from there",
                file=sys.stderr,
            )
        raise SystemExit(128 + caught[0])
