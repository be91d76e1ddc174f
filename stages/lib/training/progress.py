"""What is seen of training while it goes on and afterwards: lines on the terminal, the log, a step that is broken."""

import csv
import math
import time
from pathlib import Path
from typing import Any

from stages.lib.errors import UserError

MOST_OVERFLOWS = 32
"""Steps in a row. torch scales float16's gradients by 2**16 at first and by half as much after each: by 2**-16 then."""


def write_log(history: list[dict[str, float]], path: Path, columns: dict[str, str], every: int) -> None:
    """Write the trainer's log as CSV for `dvc plots`: a row for each `every` steps, the means over them.

    `columns` maps the file's names to the log's keys.
    """
    rows = [entry for entry in history if "loss" in entry]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *columns])
        for start in range(0, len(rows), every):
            window = rows[start : start + every]
            means = (sum(float(row[key]) for row in window) / len(window) for key in columns.values())
            writer.writerow([int(window[-1]["step"]), *(round(mean, 6) for mean in means)])


def report_progress(trainer: Any, every: int) -> None:
    """Print the loss and the pace each `every` steps, instead of the trainer's dictionary at every step."""
    from transformers import PrinterCallback, TrainerCallback

    class Report(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.began, self.first = time.monotonic(), state.global_step

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs and (state.global_step % every == 0 or state.global_step == state.max_steps):
                pace = (time.monotonic() - self.began) / (state.global_step - self.first)
                loss = f"loss {float(logs['loss']):.4f}, {pace:.2f} s a step"
                print(f"{args.run_name}: step {state.global_step} of {state.max_steps}, {loss}", flush=True)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Report())


def refuse_broken_steps(name: str, trainer: Any) -> None:
    """Stop a trl trainer with a UserError after a step whose loss or gradient is no finite number.

    From there on every weight that is trained is lost. In float16 a gradient may overflow: the scaler leaves such a
    step out and scales less. Where that doesn't end, no weight changes at all, which stops the run too.
    """
    from transformers import TrainerCallback

    class Refuse(TrainerCallback):
        overflows = 0  # in a row

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" not in logs:
                return
            loss, norm, step = float(logs["loss"]), float(logs.get("grad_norm", 0.0)), state.global_step
            self.overflows = 0 if math.isfinite(norm) else self.overflows + 1
            lower = f"Lower {name}.learning_rate (it is {args.learning_rate:g})"
            wider = f"set {name}.dtype=bfloat16 or float32"
            if not math.isfinite(loss):
                mend = f"{lower}, or {wider}" if args.fp16 else lower
                raise UserError(f"found a loss of {loss} in step {step}, needed a finite number. {mend}")
            if self.overflows and not args.fp16:
                raise UserError(f"found a gradient of {norm} in step {step}, needed a finite one. {lower}")
            if self.overflows == MOST_OVERFLOWS or self.overflows == step == state.max_steps:
                raise UserError(
                    f"found no finite gradient in {self.overflows} steps in a row up to step {step}: float16 "
                    f"overflows and no weight changes. To mend it, {wider}"
                )

    trainer.add_callback(Refuse())
