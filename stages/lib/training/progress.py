"""What is seen of training while it goes on and afterwards: lines on the terminal, the log, a step that is broken."""

from __future__ import annotations

import csv
import math
import time
from collections import defaultdict, deque
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from stages.lib.every_stage.errors import UserError
from stages.lib.hardware import device, return_freed_memory
from stages.lib.training.keep_base import KL
from stages.lib.training.trl_trainer import TrlTrainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import TrainerControl, TrainerState, TrainingArguments

MOST_OVERFLOWS = 32
"""Steps in a row. torch scales float16's gradients by 2**16 at first and by half as much after each: by 2**-16 then."""

RECENT = 10
"""Lines of the log that the pace is taken over: a laptop that becomes busy is slower from then on."""

OF_ONE_STEP = ("learning_rate", "grad_norm")
"""What the trainer logs of the last step alone; the rest are means over the steps since it logged before."""

OF_SOME_STEPS = (KL,)
"""What a whole run may lack: none of its batches held a token."""


def write_log(history: list[dict[str, float]], path: Path, columns: dict[str, str], every: int) -> None:
    """Write the trainer's log as CSV for `dvc plots`: a row for each `every` steps.

    `columns` maps the file's names to the log's keys. A run that was interrupted has logged there too, and its row is
    that of the steps before and after. Raises KeyError for a key that nothing logged.
    """
    if never := [key for key in columns.values() if key not in OF_SOME_STEPS and not any(key in e for e in history)]:
        raise KeyError(", ".join(never))
    windows: dict[int, list[tuple[int, dict[str, float]]]] = defaultdict(list)
    before = 0
    for entry in (entry for entry in history if "loss" in entry):
        step = int(entry["step"])
        windows[(step - 1) // every].append((step - before, entry))
        before = step
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *columns])
        for window in windows.values():
            _, last = window[-1]
            writer.writerow([int(last["step"]), *(figure(window, key) for key in columns.values())])


def figure(window: list[tuple[int, dict[str, float]]], key: str) -> float | str:
    """What was logged as `key` in a window, given as entries of the log, each with the steps that it is of.

    Nothing, an empty cell, where no entry has it: no step of the window held or learned a token.
    """
    found = [(steps, float(entry[key])) for steps, entry in window if key in entry]
    if key in OF_ONE_STEP:
        return round(found[-1][1], 6)
    return round(sum(steps * value for steps, value in found) / sum(steps for steps, _ in found), 6) if found else ""


def report_progress(trainer: TrlTrainer, clock: Callable[[], float] = time.monotonic) -> None:
    """Print the loss, the recent pace and the time left whenever the trainer logs, instead of its dictionary."""
    from transformers import PrinterCallback, TrainerCallback

    class Report(TrainerCallback):
        def on_train_begin(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
        ) -> None:
            self.logged = deque([(clock(), state.global_step)], RECENT)

        def on_log(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            logs: dict[str, float] | None = None,
            **_: object,
        ) -> None:
            if logs and "loss" in logs:
                now, step = clock(), state.global_step
                then, earlier = self.logged[0]
                pace = (now - then) / (step - earlier)
                self.logged.append((now, step))
                left = timedelta(seconds=round(pace * (state.max_steps - step)))
                line = f"step {step} of {state.max_steps}, loss {float(logs['loss']):.4f}, {pace:.2f} s a step"
                print(f"{args.run_name}: {line}" + (f", about {left} left" if left else ""), flush=True)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Report())


def return_holes(trainer: TrlTrainer) -> None:
    """Return what a CPU's allocator holds between tensors whenever the trainer logs: its holes grow step by step."""
    from transformers import TrainerCallback

    class Return(TrainerCallback):
        def on_log(self, *_: object, **__: object) -> None:
            return_freed_memory()

    if device() == "cpu":
        trainer.add_callback(Return())


def refuse_broken_steps(name: str, trainer: TrlTrainer) -> None:
    """Stop a trl trainer with a UserError where it logs a loss or a gradient that is no finite number.

    From there on every weight that is trained is lost: a later step shows it too, and the last one is always logged.
    In float16 a gradient may overflow: the scaler leaves such a step out and scales less. Where that doesn't end, no
    weight changes at all, which stops the run too.
    """
    from transformers import TrainerCallback

    wider = f"set {name}.dtype=bfloat16 or float32"

    class Refuse(TrainerCallback):
        overflows = 0  # in a row

        def on_train_begin(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
        ) -> None:
            self.logged = state.global_step

        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
        ) -> None:
            step = state.global_step
            control.should_log = control.should_log or step == state.max_steps
            self.overflows = self.overflows + 1 if trainer.accelerator.optimizer_step_was_skipped else 0
            if self.overflows == MOST_OVERFLOWS or 0 < self.overflows == step == state.max_steps:
                raise UserError(
                    f"found no finite gradient in {self.overflows} steps in a row up to step {step}: float16 "
                    f"overflows and no weight changes. To fix it, {wider}"
                )

        def on_log(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            logs: dict[str, float] | None = None,
            **_: object,
        ) -> None:
            if not logs or "loss" not in logs:
                return
            loss, norm, step = float(logs["loss"]), float(logs.get("grad_norm", 0.0)), state.global_step
            steps = f"step {step}" if step - self.logged == 1 else f"steps {self.logged + 1} to {step}"
            self.logged = step
            lower = f"Lower {name}.learning_rate (it is {args.learning_rate:g})"
            if not math.isfinite(loss):
                remedy = f"{lower}, or {wider}" if args.fp16 else lower
                raise UserError(f"found a loss of {loss} in {steps}, needed a finite number. {remedy}")
            if not math.isfinite(norm) and not args.fp16:
                raise UserError(f"found a gradient of {norm} in step {step}, needed a finite one. {lower}")

    trainer.add_callback(Refuse())
