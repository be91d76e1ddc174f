"""Supervised fine-tuning: an adapter that has learned the chats and the questions from PDFs.

Reads   models/base, data/prepared/ultrachat/train.jsonl, data/prepared/pdf_qa/train.jsonl
Writes  models/sft: adapter (or the whole model for method=full), tokenizer, lineage.json; metrics/sft_log.csv;
        metrics/sft_preview.html: the longest, the shortest and some other rows, with what of them is learned
Run     python -m stages.sft
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.lib.chat import refuse_unlearnable, stop_ids
from stages.lib.checkpoints import checkpoint_folder, train_with_checkpoints
from stages.lib.entry import run
from stages.lib.fast_path import attend_without_mask, dequantize_once, score_supervised_positions, skip_adapter_casts
from stages.lib.hardware import describe, device, set_up_cpu
from stages.lib.lineage import arguments_of, file_sha256, weights_sha256, write_lineage
from stages.lib.models import load_for_training, load_tokenizer
from stages.lib.plan import make_plan
from stages.lib.precision import resolve_precision
from stages.lib.preview import render_supervision
from stages.lib.publish import published
from stages.lib.schema import LossOn, Method, Sft
from stages.lib.training import (
    copy_tokenizer,
    keep_adapter_in_float32,
    lora_config,
    rehearse,
    report_progress,
    save_adapter,
    trainer_arguments,
    write_log,
)
from stages.lib.training_rows import supervised_rows

BASE = Path("models/base")
ULTRACHAT = Path("data/prepared/ultrachat")
PDF_QA = Path("data/prepared/pdf_qa")
OUT = Path("models/sft")
LOG = Path("metrics/sft_log.csv")
PREVIEW = Path("metrics/sft_preview.html")
LOG_COLUMNS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "token_accuracy": "mean_token_accuracy",
}


def sft(section: Sft, root: Path) -> dict[str, Any]:
    threads = set_up_cpu(section.threads)
    section, dtype, precision = resolve_precision("sft", section, BASE)
    tokenizer = load_tokenizer(BASE)
    model = load_for_training(BASE, section, dtype)
    files = {ULTRACHAT / "train.jsonl": section.mix.ultrachat, PDF_QA / "train.jsonl": section.mix.pdf_qa}
    files = {path: times for path, times in files.items() if times}
    rows, dropped = supervised_rows(section, files, tokenizer)
    if section.loss_on is LossOn.assistant:
        refuse_unlearnable(rows, stop_ids(model.generation_config))
    with published(root / PREVIEW) as path:
        path.write_text(render_supervision(rows, tokenizer), encoding="utf-8")
    lengths = [len(row["input_ids"]) for row in rows]
    plan = make_plan("sft", section, model, max(lengths))
    lineage = {
        "kind": "adapter" if section.method is Method.lora else "full",
        "base_weights_sha256": weights_sha256(BASE),
        "chat_template_sha256": file_sha256(BASE / "chat_template.jinja"),
        "data": {f"{path.parent.name}/{path.name}": file_sha256(path) for path in files},
        "arguments": arguments_of(section),
        "rows": {"kept": len(rows), "dropped": dropped},
    }
    with checkpoint_folder("sft", {**lineage, **plan.decisions(), "threads": threads, **precision}) as folder:
        trainer = make_trainer(section, plan, dtype, model, tokenizer, rows, folder)
        rehearse("sft", trainer, plan, lengths)
        report_progress(trainer, section.logging_steps)
        train_with_checkpoints(trainer, folder, section.checkpoint_minutes)
        with published(root / OUT) as out:
            out.mkdir()
            if section.method is Method.lora:
                save_adapter(trainer.model, out)
            else:
                trainer.model.save_pretrained(out)
            copy_tokenizer(BASE, out)
            write_lineage(out, lineage)
        with published(root / LOG) as path:
            write_log(trainer.state.log_history, path, LOG_COLUMNS, section.logging_steps)
    return {
        **describe(),
        "threads": threads,
        **precision,
        "plan": asdict(plan),
        "rows": len(rows),
        "tokens_per_epoch": sum(lengths),
    }


def make_trainer(
    section: Sft, plan: Any, dtype: Any, model: Any, tokenizer: Any, rows: list[dict[str, Any]], folder: Path
) -> Any:
    """trl's trainer on rows that are tokenised already, so that it neither tokenises nor drops any."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    on_cpu = device() == "cpu"
    if on_cpu:
        attend_without_mask(model)
    if plan.dequantize_once:
        dequantize_once(model)
    arguments = SFTConfig(
        **trainer_arguments("sft", section, plan, dtype, folder),
        max_length=None,  # rows are cut already
        padding_free=on_cpu,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SFTTrainer(
        model,
        args=arguments,
        train_dataset=Dataset.from_list([{"input_ids": r["input_ids"], "labels": r["labels"]} for r in rows]),
        processing_class=tokenizer,
        peft_config=lora_config(section) if section.method is Method.lora else None,
    )
    keep_adapter_in_float32(trainer.model)
    if on_cpu:
        score_supervised_positions(trainer.model)
        skip_adapter_casts(trainer.model)
    return trainer


if __name__ == "__main__":
    run(sft)
