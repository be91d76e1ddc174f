"""Supervised fine-tuning: an adapter that has learned the chats and the questions from PDFs, and raw text if there is.

Reads   models/base, which probe-base tried; data/prepared/ultrachat/train.jsonl, data/prepared/pdf_qa/train.jsonl and,
        where prepare_pdf_qa.raw_text made it, text.jsonl beside; conf/accelerate
Writes  models/sft: adapter (or the whole model for method=full), tokenizer, lineage.json; metrics/sft_log.csv;
        metrics/sft.json: how exact its arithmetic is; metrics/sft_preview.html: some rows,
        with what of them is learned
Run     python -m stages.sft
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.entry import run
from stages.lib.every_stage.publish import published
from stages.lib.models.chat import refuse_unlearnable, stop_ids
from stages.lib.schema.choices import Engine, Method
from stages.lib.schema.training import Sft
from stages.lib.sft_preview import render_supervision
from stages.lib.training.keep_base import (
    KL,
    held_figures,
    hold_batches,
    hold_to_base,
    holding_trainer,
    refuse_wrong_teacher,
    scored,
)
from stages.lib.training.launcher import on_all_gpus
from stages.lib.training.plan import Plan
from stages.lib.training.run import TrainingRun, begin
from stages.lib.training.token_rows import supervised_rows
from stages.lib.training.trainer import trainer_arguments

if TYPE_CHECKING:
    from stages.lib.models.chat import TokenRow

BASE = Path("models/base")
PROBE = Path("metrics/probe_base.json")  # that it is there says that this base can be trained
ULTRACHAT = Path("data/prepared/ultrachat")
PDF_QA = Path("data/prepared/pdf_qa")
ACCELERATE = Path("conf/accelerate")
OUT = Path("models/sft")
LOG = Path("metrics/sft_log.csv")
METRICS = Path("metrics/sft.json")
PREVIEW = Path("metrics/sft_preview.html")
LOG_COLUMNS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "token_accuracy": "mean_token_accuracy",
}


@on_all_gpus(ACCELERATE)
def sft(section: Sft, root: Path) -> dict[str, Any]:
    tuning = begin("sft", section, BASE)
    files = {ULTRACHAT / "train.jsonl": section.mix.ultrachat, PDF_QA / "train.jsonl": section.mix.pdf_qa}
    if (text := PDF_QA / "text.jsonl").is_file():
        files[text] = section.mix.raw_text
    files = {path: times for path, times in files.items() if times}
    rows, dropped = supervised_rows(section, files, tuning.tokenizer)
    refuse_unlearnable(rows, stop_ids(tuning.model.generation_config), section.loss_on)
    keep = section.keep_base if section.keep_base.weight else None
    if keep:
        rows = hold_to_base(rows, ULTRACHAT.name, keep)
    with published(root / PREVIEW) as path:
        path.write_text(render_supervision(rows, tuning.tokenizer), encoding="utf-8")
    lengths = [len(row["input_ids"]) for row in rows]
    plan = tuning.plan(lengths, [scored(row) for row in rows])
    lineage = tuning.lineage(list(files), len(rows), dropped)
    with tuning.checkpoints(plan, lineage) as folder:
        trainer, plan, start = tuning.rehearsed(
            plan,
            lambda plan: make_trainer(tuning, plan, rows, folder),
            lengths,
            lambda indices: [scored(rows[index]) for index in indices],
        )
        held = refuse_wrong_teacher(trainer, plan, tuning.dtype) if keep else 0.0
        tuning.train(trainer, folder)
        tuning.publish(trainer, root / OUT, lineage)
        tuning.publish_log(trainer, root / LOG, LOG_COLUMNS | ({KL: KL} if keep else {}))
        tuning.publish_metrics(root / METRICS, plan, start, **(held_figures(trainer, rows, held) if keep else {}))
    return tuning.facts(plan, rows=len(rows), tokens_per_epoch=sum(lengths))


def make_trainer(tuning: TrainingRun, plan: Plan, rows: list[TokenRow], folder: Path) -> Any:
    """trl's trainer on rows that are tokenised already, so that it neither tokenises nor drops any.

    Where the base is kept, rows have `held` too.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        **trainer_arguments(tuning.name, tuning.section, plan, tuning.dtype, folder),
        max_length=None,  # rows are truncated already
        padding_free=plan.padding_free,
        router_aux_loss_coef=0.0 if tuning.section.method is Method.lora else None,  # frozen experts stay balanced
        pad_to_multiple_of=plan.pad_to_multiple_of,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
    )
    weight = tuning.section.keep_base.weight
    columns = ["input_ids", "labels", "held"] if weight else ["input_ids", "labels"]
    dataset = Dataset.from_list([{column: value for column, value in row.items() if column in columns} for row in rows])
    if tuning.section.engine is Engine.trl:
        dataset = dataset.with_format("numpy")  # batches of Python's numbers take five times as long: a GPU waits
    trainer = (holding_trainer(weight) if weight else SFTTrainer)(
        **tuning.model_and_adapter(plan),
        args=arguments,
        train_dataset=dataset,
        processing_class=tuning.tokenizer,
    )
    trainer = tuning.prepared(trainer, plan, dataset)
    return hold_batches(trainer) if weight else trainer


if __name__ == "__main__":
    run(sft)
