"""The pruned model, trained until it says again what the whole one says. Off as prune is.

Reads   models/pruned; models/sft-merged or models/dpo-merged, whichever it was pruned from, as the teacher;
        data/prepared/ultrachat/train.jsonl, data/prepared/pdf_qa/train.jsonl; conf/accelerate
Writes  models/healed: adapter, tokenizer, lineage.json (which alone says "off" where it is off);
        metrics/heal_log.csv; metrics/heal.json: how exact its arithmetic is, and the loss before the first step
Run     python -m stages.heal heal.enabled=true heal.loss=kd
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.distillation import distil, distilling_trainer, refuse_wrong_teacher, said_by
from stages.lib.every_stage.entry import run
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import OFF, refuse_damaged, weights_sha256, write_lineage
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_json
from stages.lib.models.chat import refuse_unlearnable, stop_ids
from stages.lib.models.loading import load_16bit
from stages.lib.schema.choices import HealLoss, Pruned
from stages.lib.schema.training import Heal
from stages.lib.training.fast_path import speed_up_model
from stages.lib.training.launcher import on_all_gpus
from stages.lib.training.plan import Plan
from stages.lib.training.run import TrainingRun, begin, find_common_hardware
from stages.lib.training.token_rows import supervised_rows
from stages.lib.training.trainer import trainer_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from stages.lib.models.chat import TokenRow

PRUNED = Path("models/pruned")
SFT = Path("models/sft-merged")
DPO = Path("models/dpo-merged")
ULTRACHAT = Path("data/prepared/ultrachat")
PDF_QA = Path("data/prepared/pdf_qa")
ACCELERATE = Path("conf/accelerate")
OUT = Path("models/healed")
LOG = Path("metrics/heal_log.csv")
METRICS = Path("metrics/heal.json")
LOG_COLUMNS = {"loss": "loss", "learning_rate": "learning_rate", "grad_norm": "grad_norm"}


@on_all_gpus(ACCELERATE)
def heal(section: Heal, root: Path) -> dict[str, Any]:
    if not section.enabled:
        return publish_nothing(root)
    whole = whole_model()
    tuning = begin("heal", section, PRUNED)
    files = {ULTRACHAT / "train.jsonl": 1, PDF_QA / "train.jsonl": 1}
    rows, dropped = supervised_rows(section, files, tuning.tokenizer)
    refuse_unlearnable(rows, stop_ids(tuning.model.generation_config), section.loss_on)
    shortest = min(rows, key=lambda row: len(row["input_ids"]))
    lineage, teacher, said = tuning.lineage(list(files), len(rows), dropped), None, None
    if section.loss is HealLoss.kd:
        said = said_by(whole, shortest, section.temperature, tuning.dtype)
        teacher = load_16bit(whole, tuning.dtype)
        lineage["teacher_weights_sha256"] = weights_sha256(whole)
        tuning.hardware = find_common_hardware()  # what is free beside the teacher
    lengths = [len(row["input_ids"]) for row in rows]
    plan = tuning.plan(lengths, [*rows])
    with tuning.checkpoints(plan, lineage) as folder:
        trainer, plan, start = tuning.rehearsed(
            plan,
            lambda plan: make_trainer(tuning, plan, rows, folder, teacher),
            lengths,
            lambda indices: [rows[index] for index in indices],
        )
        found = {"loss_start": start["loss"]}
        if said is not None:
            checked = (trainer, shortest, said, section.temperature, tuning.dtype, whole)
            found["kd_start"] = refuse_wrong_teacher(*checked)
        tuning.train(trainer, folder)
        tuning.publish(trainer, root / OUT, lineage)
        tuning.publish_log(trainer, root / LOG, LOG_COLUMNS)
        tuning.publish_metrics(root / METRICS, plan, start, **found)
    return tuning.facts(plan, rows=len(rows))


def publish_nothing(root: Path) -> dict[str, Any]:
    """The outs of a stage that is off: a lineage that says so, and empty figures."""
    with published(root / OUT) as out:
        out.mkdir()
        write_lineage(out, OFF)
    with published(root / LOG) as path:
        path.write_text(",".join(("step", *LOG_COLUMNS)) + "\n", encoding="utf-8")
    with published(root / METRICS) as path:
        write_json(path, {})
    return {"enabled": False}


def whole_model() -> Path:
    """The directory of the model that models/pruned was made of, the teacher.

    Raises UserError where nothing was pruned, or the model there is another one by now.
    """
    lineage = refuse_damaged(PRUNED)
    if lineage == OFF:
        raise UserError(
            f"heal.enabled: found true, and {PRUNED} is off; needed a pruned model. Set prune.enabled=true, which "
            "turns heal on as well"
        )
    whole = DPO if lineage["arguments"]["model"] == Pruned.dpo.value else SFT
    refuse_damaged(whole)
    found, pruned = weights_sha256(whole), lineage["whole_weights_sha256"]
    if found != pruned:
        raise UserError(
            f"{PRUNED} was made of weights {pruned[:12]}, but {whole} holds {found[:12]}: it is no teacher of this "
            "model. Rebuild both with `dvc repro`"
        )
    return whole


def make_trainer(
    tuning: TrainingRun, plan: Plan, rows: list[TokenRow], folder: Path, teacher: PreTrainedModel | None
) -> Any:
    """trl's trainer on rows that are tokenised already; with a `teacher` its loss is the divergence from that."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        **trainer_arguments(tuning.name, tuning.section, plan, tuning.dtype, folder),
        max_length=None,  # rows are truncated already
        router_aux_loss_coef=0.0,  # balances experts while they are trained; an adapter's are frozen
        pad_to_multiple_of=plan.pad_to_multiple_of,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
    )
    columns = ("input_ids", "labels")
    dataset = Dataset.from_list([{name: value for name, value in row.items() if name in columns} for row in rows])
    dataset = dataset.with_format("numpy")
    temperature = tuning.section.temperature
    if teacher is None:
        kind: Any = SFTTrainer
    else:  # which attends as its student does
        kind = distilling_trainer(
            speed_up_model(teacher, replace(plan, dequantize_once=False), tuning.dtype), temperature
        )
    trainer = kind(
        **tuning.model_and_adapter(plan), args=arguments, train_dataset=dataset, processing_class=tuning.tokenizer
    )
    trainer = tuning.prepared(trainer, plan, dataset)
    return trainer if teacher is None else distil(trainer, temperature)


if __name__ == "__main__":
    run(heal)
