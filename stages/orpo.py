"""ORPO, SFT and preferences in one step: an adapter on the base model. Off unless orpo.enabled is true.

Reads   models/base, data/prepared/preferences/train.jsonl
Writes  models/orpo: adapter, tokenizer, lineage.json (which alone says "off" where it is off); metrics/orpo_log.csv
Run     python -m stages.orpo orpo.enabled=true
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.lib.checkpoints import checkpoint_folder, train_with_checkpoints
from stages.lib.entry import run
from stages.lib.fast_path import attend_without_mask, dequantize_once, skip_adapter_casts
from stages.lib.hardware import describe, device, set_up_cpu
from stages.lib.lineage import OFF, arguments_of, file_sha256, weights_sha256, write_lineage
from stages.lib.models import load_for_training, load_tokenizer
from stages.lib.plan import make_plan
from stages.lib.precision import resolve_precision
from stages.lib.publish import published
from stages.lib.schema import Orpo
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
from stages.lib.training_rows import pair_lengths, preference_rows

BASE = Path("models/base")
PREFERENCES = Path("data/prepared/preferences")
OUT = Path("models/orpo")
LOG = Path("metrics/orpo_log.csv")
LOG_COLUMNS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "nll_loss": "nll_loss",
    "log_odds_ratio": "log_odds_ratio",
    "reward_accuracy": "rewards/accuracies",
    "reward_margin": "rewards/margins",
}


def orpo(section: Orpo, root: Path) -> dict[str, Any]:
    if not section.enabled:
        publish(root, lineage=OFF)
        return {"enabled": False}
    threads = set_up_cpu(section.threads)
    section, dtype, precision = resolve_precision("orpo", section, BASE)
    tokenizer = load_tokenizer(BASE)
    model = load_for_training(BASE, section, dtype)
    train = PREFERENCES / "train.jsonl"
    pairs, dropped = preference_rows("orpo", train, tokenizer, section.max_length)
    lengths = pair_lengths(pairs)
    plan = make_plan("orpo", section, model, max(lengths), sequences=2, all_logits=True)
    lineage = {
        "kind": "adapter",
        "base_weights_sha256": weights_sha256(BASE),
        "chat_template_sha256": file_sha256(BASE / "chat_template.jinja"),
        "data": {"preferences/train.jsonl": file_sha256(train)},
        "arguments": arguments_of(section),
        "rows": {"kept": len(pairs), "dropped": dropped},
    }
    with checkpoint_folder("orpo", {**lineage, **plan.decisions(), "threads": threads, **precision}) as folder:
        trainer = make_trainer(section, plan, dtype, model, tokenizer, pairs, folder)
        rehearse("orpo", trainer, plan, lengths)
        report_progress(trainer, section.logging_steps)
        train_with_checkpoints(trainer, folder, section.checkpoint_minutes)
        publish(root, lineage, section, trainer)
    return {**describe(), "threads": threads, **precision, "plan": asdict(plan), "rows": len(pairs)}


def publish(root: Path, lineage: dict[str, Any], section: Orpo | None = None, trainer: Any = None) -> None:
    """Write the stage's outs; without a trainer, those of a stage that is off."""
    with published(root / OUT) as out:
        out.mkdir()
        if trainer:
            save_adapter(trainer.model, out)
            copy_tokenizer(BASE, out)
        write_lineage(out, lineage)
    with published(root / LOG) as path:
        history = trainer.state.log_history if trainer else []
        write_log(history, path, LOG_COLUMNS, section.logging_steps if section else 1)


def make_trainer(
    section: Orpo, plan: Any, dtype: Any, model: Any, tokenizer: Any, pairs: list[dict[str, list[int]]], folder: Path
) -> Any:
    """trl's trainer on pairs that are tokenised already."""
    import os

    from datasets import Dataset

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    class TokenisedORPOTrainer(ORPOTrainer):
        def tokenize_row(self, feature: dict[str, list[int]], model: Any = None) -> dict[str, list[int]]:
            row = {"prompt_input_ids": feature["prompt_ids"]}
            for side in ("chosen", "rejected"):
                ids = feature["prompt_ids"] + feature[f"{side}_ids"]
                row[f"{side}_input_ids"] = ids
                row[f"{side}_attention_mask"] = [1] * len(ids)
                row[f"{side}_labels"] = [-100] * len(feature["prompt_ids"]) + feature[f"{side}_ids"]
            return row

    on_cpu = device() == "cpu"
    if on_cpu:
        attend_without_mask(model)
    if plan.dequantize_once:
        dequantize_once(model)
    arguments = ORPOConfig(
        **trainer_arguments("orpo", section, plan, dtype, folder),
        max_length=section.max_length,
        beta=section.beta,
        remove_unused_columns=False,
    )
    trainer = TokenisedORPOTrainer(
        model,
        args=arguments,
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
        peft_config=lora_config(section),
    )
    keep_adapter_in_float32(trainer.model)
    if on_cpu:
        skip_adapter_casts(trainer.model)
    return trainer


if __name__ == "__main__":
    run(orpo)
