"""Supervised fine-tuning: an adapter that has learned the chats and the questions from PDFs.

Reads   models/base, data/prepared/ultrachat/train.jsonl, data/prepared/pdf_qa/train.jsonl
Writes  models/sft: adapter (or the whole model for method=full), tokenizer, lineage.json; metrics/sft_log.csv
Run     python -m stages.sft
"""

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages.lib.chat import IGNORED, encode, refuse_unlearnable, stop_ids
from stages.lib.entry import run
from stages.lib.errors import UserError
from stages.lib.fast_path import attend_without_mask, score_supervised_positions, skip_adapter_casts
from stages.lib.hardware import describe, device, resolve_dtype, use_threads
from stages.lib.lineage import file_sha256, weights_sha256, write_lineage
from stages.lib.models import load_for_training, load_tokenizer
from stages.lib.publish import published
from stages.lib.records import read_jsonl
from stages.lib.schema import LossOn, Method, Overlong, Sft
from stages.lib.training import (
    copy_tokenizer,
    keep_adapter_in_float32,
    lora_config,
    make_plan,
    save_adapter,
    trainer_arguments,
    write_log,
)

BASE = Path("models/base")
ULTRACHAT = Path("data/prepared/ultrachat")
PDF_QA = Path("data/prepared/pdf_qa")
OUT = Path("models/sft")
LOG = Path("metrics/sft_log.csv")
LOG_COLUMNS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "token_accuracy": "mean_token_accuracy",
}


def sft(section: Sft, root: Path) -> dict[str, Any]:
    from torch import float32

    threads = use_threads(section.threads)
    dtype = resolve_dtype(section.dtype)
    tokenizer = load_tokenizer(BASE)
    # Weights that are themselves trained are kept in float32: in bfloat16 small updates round to nothing.
    model = load_for_training(BASE, section.quantization, float32 if section.method is Method.full else dtype)
    rows, dropped = training_rows(section, tokenizer)
    if section.loss_on is LossOn.assistant:
        refuse_unlearnable(rows, stop_ids(model.generation_config))
    plan = make_plan(section, longest=max(len(row["input_ids"]) for row in rows))
    with TemporaryDirectory() as scratch:
        trainer = make_trainer(section, plan, dtype, model, tokenizer, rows, Path(scratch))
        trainer.train()
    with published(root / OUT) as out:
        out.mkdir()
        if section.method is Method.lora:
            save_adapter(trainer.model, out)
        else:
            trainer.model.save_pretrained(out)
        copy_tokenizer(BASE, out)
        write_lineage(
            out,
            {
                "kind": "adapter" if section.method is Method.lora else "full",
                "base_weights_sha256": weights_sha256(BASE),
                "chat_template_sha256": file_sha256(BASE / "chat_template.jinja"),
                "data": {f"{path.parent.name}/{path.name}": file_sha256(path) for path, _ in sources(section)},
                "rows": {"kept": len(rows), "dropped": dropped},
            },
        )
    with published(root / LOG) as path:
        write_log(trainer.state.log_history, path, LOG_COLUMNS)
    tokens = sum(len(row["input_ids"]) for row in rows)
    return {
        **describe(),
        "threads": threads,
        "dtype": str(dtype),
        "plan": asdict(plan),
        "rows": len(rows),
        "tokens_per_epoch": tokens,
    }


def sources(section: Sft) -> list[tuple[Path, int]]:
    """The files trained on, each with how often its rows are in one epoch."""
    files = [(ULTRACHAT / "train.jsonl", section.mix.ultrachat), (PDF_QA / "train.jsonl", section.mix.pdf_qa)]
    return [(path, times) for path, times in files if times]


def training_rows(section: Sft, tokenizer: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Tokenise the mix into rows of id, input_ids, labels (both of equal length, at most max_length tokens).

    Returns the rows and how many conversations were cut or dropped, by reason. Raises UserError if none is left.
    """
    rows = []
    counts = {"cut_turns": 0, "truncated": 0, "dropped_too_long": 0}
    for path, times in sources(section):
        for record in read_jsonl(path):
            messages = record["messages"]
            encoded = encode(tokenizer, messages)
            while (
                section.overlong is Overlong.cut_turns
                and len(encoded.input_ids) > section.max_length
                and len(messages) > 2
            ):
                messages = messages[:-2]
                encoded = encode(tokenizer, messages)
            too_long = len(encoded.input_ids) > section.max_length
            if too_long and section.overlong is Overlong.cut_turns:
                counts["dropped_too_long"] += 1
                continue
            counts["cut_turns"] += len(messages) < len(record["messages"])
            counts["truncated"] += too_long
            ids = encoded.input_ids[: section.max_length]
            learned = encoded.by_assistant if section.loss_on is LossOn.assistant else [True] * len(ids)
            labels = [token if on else IGNORED for token, on in zip(ids, learned, strict=False)]
            rows += [{"id": record["id"], "input_ids": ids, "labels": labels}] * times
    if not rows:
        raise UserError(
            f"no training rows: {counts['dropped_too_long']} conversations are longer than sft.max_length="
            f"{section.max_length} tokens; raise it, or give sft.mix a data set with shorter ones"
        )
    return rows, counts


def make_trainer(
    section: Sft, plan: Any, dtype: Any, model: Any, tokenizer: Any, rows: list[dict[str, Any]], scratch: Path
) -> Any:
    """trl's trainer on rows that are tokenised already, so that it neither tokenises nor drops any."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    on_cpu = device() == "cpu"
    if on_cpu:
        attend_without_mask(model)
    arguments = SFTConfig(
        **trainer_arguments(section, plan, dtype, scratch),
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
