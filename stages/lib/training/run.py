"""What every training stage does around its trainer: begin, decide, note what made the model, train, publish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.lineage import arguments_of, file_sha256, refuse_damaged, weights_sha256, write_lineage
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_json
from stages.lib.hardware import Hardware, describe, find_hardware, set_up_cpu
from stages.lib.models.loading import copy_tokenizer, load_for_training, load_tokenizer
from stages.lib.schema.choices import Engine, Method
from stages.lib.training.checkpoints import checkpoint_folder, train_with_checkpoints
from stages.lib.training.fast_path import causal_lm_of, speed_up_model, speed_up_trainer
from stages.lib.training.parity import Row, own_pass, path_difference, rule_out
from stages.lib.training.plan import Plan, make_plan
from stages.lib.training.precision import resolve_precision
from stages.lib.training.processes import count, count_here, from_all, from_main, is_main, sharded
from stages.lib.training.progress import refuse_broken_steps, report_progress, return_holes, write_log
from stages.lib.training.rehearsal import longest_rows, rehearse
from stages.lib.training.target_modules import with_target_modules
from stages.lib.training.trainer import (
    keep_adapter_in_float32,
    keep_losses_in_float32,
    lora_config,
    save_adapter,
    use_loraplus,
)
from stages.lib.training.trl_trainer import TrlTrainer
from stages.lib.training.unsloth_engine import UNLOGGED, add_adapter, load_for_unsloth, settle_trainer, start_engine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import Dataset
    from torch.nn import Module

    from stages.lib.schema.training import Training


@dataclass
class TrainingRun:
    """A training stage at work."""

    name: str  # the section's
    section: Any  # schema.Training, with its quantization and target modules resolved
    base: Path  # the model directory that is tuned
    hardware: Hardware
    threads: int
    dtype: Any  # torch dtype to compute in
    precision: dict[str, str]  # in words
    tokenizer: Any
    model: Any
    engine: dict[str, str]  # its name and version
    compute_seconds: float = 0.0  # in steps of training

    def plan(self, lengths: list[int], rows: list[Row], **options: Any) -> Plan:
        """Decide how a step over rows of these `lengths` is computed, and say so; options as make_plan takes them.

        What it decides computes what the model computes by itself, on a probe of `rows` (see parity.py).
        """
        ruled_out: dict[str, str] = {}
        while True:
            plan = make_plan(
                self.name, self.section, self.model, lengths, self.hardware, ruled_out=ruled_out, **options
            )
            if self.section.engine is Engine.unsloth:
                break
            asked = (self.base, rows, self.tokenizer.pad_token_id, self.dtype)
            frozen = self.section.method is Method.lora
            # One process asks for all: they must all decide the same.
            found = from_main(path_difference(plan, *asked, frozen) if is_main() else None)
            if found.accepted():
                why = f"nats at most from the model's own log-probabilities, over {found.tokens} tokens"
                measured = {"parity": float(f"{found.largest:.1e}"), "parity_tokens": found.tokens}
                plan = replace(plan, **measured, why={**plan.why, "parity": why})
                break
            ruled_out |= from_main(rule_out(plan, found, *asked) if is_main() else None)
        print(plan.block(self.name), flush=True)
        return plan

    def lineage(self, files: list[Path], kept: int, dropped: dict[str, int]) -> dict[str, Any]:
        """What the model is made of: the base, the prepared `files`, and how many of their rows were kept."""
        return {
            "kind": "adapter" if self.section.method is Method.lora else "full",
            "base_weights_sha256": weights_sha256(self.base),
            "chat_template_sha256": file_sha256(self.base / "chat_template.jinja"),
            "data": {f"{path.parent.name}/{path.name}": file_sha256(path) for path in files},
            "arguments": arguments_of(self.section),
            "rows": {"kept": kept, "dropped": dropped},
        }

    def model_and_adapter(self, plan: Plan) -> dict[str, Any]:
        """A trl trainer's `model` and `peft_config`, prepared for the steps that `plan` decided."""
        if self.section.engine is Engine.unsloth:
            return {"model": add_adapter(self.model, self.section, plan), "peft_config": None}
        return {
            "model": speed_up_model(self.model, plan, self.dtype),
            "peft_config": lora_config(self.section, self.model),
        }

    def prepared(self, trainer: TrlTrainer, plan: Plan, rows: Dataset) -> Any:
        """The `trainer`, which was given model_and_adapter and the data set `rows`, ready for the steps in `plan`."""
        keep_adapter_in_float32(trainer.model)
        if self.section.engine is Engine.unsloth:
            settle_trainer(trainer, rows)
        else:
            speed_up_trainer(trainer, plan, self.dtype)
        if self.section.method is Method.lora and self.section.lora.loraplus_lr_ratio:
            use_loraplus(trainer, self.section.lora)
        return trainer

    @contextmanager
    def checkpoints(self, plan: Plan, lineage: Mapping[str, object]) -> Iterator[Path]:
        """The folder for checkpoints of exactly this run; see checkpoint_folder."""
        same = {**lineage, **plan.decisions(), "threads": self.threads, **self.precision, **self.engine}
        if is_main():
            with checkpoint_folder(self.name, same) as folder:
                yield from_main(folder)
        else:
            yield from_main(None)

    def rehearsed(
        self,
        plan: Plan,
        make_trainer: Callable[[Plan], TrlTrainer],
        lengths: list[int],
        probe: Callable[[list[int]], list[Row]],
        check: Callable[[dict[str, float]], dict[str, float]] = dict,
    ) -> tuple[Any, Plan, dict[str, float]]:
        """The trainer that `make_trainer` builds, after a pass on the longest rows; see rehearse.

        Where layers are compiled or passes recorded, the pass is compared with the model's own on the rows that
        `probe` gives for indices, and the plan falls back to neither where they differ. Returns the trainer, its plan
        and the figures of the pass.
        """
        while True:
            wanted = None
            if plan.torch_compile or plan.cuda_graphs:
                wanted = own_pass(
                    self.model, probe(longest_rows(lengths, plan)), self.tokenizer.pad_token_id, self.dtype
                )
            trainer = make_trainer(plan)
            figures = rehearse(self.name, trainer, plan, lengths, self.dtype, check)
            if wanted is None:
                return trainer, plan, figures
            found = max(from_all(wanted.difference(causal_lm_of(trainer.model), plan)), key=lambda each: each.largest)
            if found.accepted():
                parity = float(f"{found.largest:.1e}")
                print(f"{self.name}: compiled or recorded, {found}", flush=True)
                return trainer, plan, {**figures, "parity_compiled": parity}
            piece = "cuda_graphs" if plan.cuda_graphs else "torch_compile"
            changed = {piece: False, "why": {**plan.why, piece: f"not so: {found}"}}
            plan = replace(plan, **changed)  # type: ignore[arg-type]
            print(f"{self.name}: without {piece}: {found}", flush=True)
            del trainer
            self.model = load_for_training(self.base, self.section, self.dtype, sharded())

    def train(self, trainer: TrlTrainer, folder: Path) -> None:
        """Train to the end, with progress printed and checkpoints in `folder`. Raises UserError if a step is broken."""
        refuse_broken_steps(self.name, trainer)
        report_progress(trainer)
        return_holes(trainer)
        if sharded():
            keep_losses_in_float32(trainer, self.dtype)
        began = time.monotonic()
        train_with_checkpoints(trainer, folder, self.section.checkpoint_minutes)
        self.compute_seconds = round(time.monotonic() - began, 1)

    def publish(self, trainer: TrlTrainer, out: Path, lineage: Mapping[str, object]) -> None:
        """Write the model directory `out`: adapter or whole model, tokenizer, lineage.json."""
        weights = whole_weights(trainer.model)
        if not is_main():
            return
        refuse_damaged(self.base)  # its tokenizer goes with the model
        with published(out) as directory:
            directory.mkdir()
            if self.section.method is Method.lora:
                save_adapter(trainer.model, directory, weights)
            else:
                trainer.model.save_pretrained(directory, state_dict=weights)
            copy_tokenizer(self.base, directory)
            write_lineage(directory, lineage)

    def publish_log(self, trainer: TrlTrainer, out: Path, columns: dict[str, str]) -> None:
        """Write the CSV file `out` with the trainer's figures; see write_log. Unsloth's trainer has fewer."""
        if self.section.engine is Engine.unsloth:
            columns = {name: key for name, key in columns.items() if key not in UNLOGGED}
        with published(out) as path:
            write_log(trainer.state.log_history, path, columns, self.section.logging_steps)

    def publish_metrics(self, out: Path, plan: Plan, start: dict[str, float], **more: float) -> None:
        """Write the JSON file `out`: how exact the arithmetic of `plan` is, figures from the `start`, and `more`.

        Where nothing was measured, as under Unsloth, whose arithmetic nobody else can plan, there is no figure.
        """
        measured = {"parity": plan.parity, "parity_tokens": plan.parity_tokens} if plan.parity_tokens else {}
        compiled = {key: value for key, value in start.items() if key == "parity_compiled"}
        with published(out) as path:
            write_json(path, {**measured, **compiled, **more})

    def facts(self, plan: Plan, **more: object) -> dict[str, Any]:
        """For the run record: the hardware, and what was decided on it."""
        decided = {"threads": self.threads, **self.precision, **self.engine, "plan": plan.record()}
        return {**describe(), **decided, "compute_seconds": self.compute_seconds, **more}


def begin(name: str, section: Training, base: Path) -> TrainingRun:
    """Set up this process and load the model in `base` to be trained as `section` asks."""
    engine = start_engine(name, section)
    if is_main():
        refuse_damaged(base)
    threads = set_up_cpu(section.threads, count_here())
    hardware = find_common_hardware()
    section = with_target_modules(name, section, base)
    section, dtype, precision = resolve_precision(name, section, base, hardware)
    tokenizer = load_tokenizer(base)
    if section.engine is Engine.unsloth:
        model = load_for_unsloth(base, section, dtype)
    else:
        model = load_for_training(base, section, dtype, sharded())
    # The GPU's memory that is free now is what training may take.
    hardware = find_common_hardware()
    return TrainingRun(name, section, base, hardware, threads, dtype, precision, tokenizer, model, engine)


def find_common_hardware() -> Hardware:
    """What each of the processes that share a step has: they must all decide the same."""
    found = find_hardware()
    if found.device == "cpu":  # whose memory those of this machine share
        shared = count_here()
        found = replace(found, total_memory=found.total_memory // shared, free_memory=found.free_memory // shared)
    everywhere = from_all(found)
    return replace(
        everywhere[0],
        total_memory=min(each.total_memory for each in everywhere),
        free_memory=min(each.free_memory for each in everywhere),
        processes=count(),
        sharded=sharded(),
    )


def whole_weights(model: Module) -> dict[str, Any] | None:
    """The trained weights by name, whole and on the CPU, where they are sharded over processes (FSDP); else None.

    All processes must call it.
    """
    if not sharded():
        return None
    trained: dict[str, Any] = {name: each for name, each in model.named_parameters() if each.requires_grad}
    return {name: parameter.full_tensor().cpu() for name, parameter in trained.items()}
