"""Direct preference optimisation: a new adapter on the merged SFT model.

Reads   models/sft-merged, data/prepared/preferences/train.jsonl
Writes  models/dpo: adapter, tokenizer, lineage.json; metrics/dpo_log.csv; metrics/dpo.json: where it started, and pairs
Run     python -m stages.dpo
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.lib.checkpoints import checkpoint_folder, train_with_checkpoints
from stages.lib.entry import run
from stages.lib.fast_path import attend_without_mask, dequantize_once, score_supervised_positions, skip_adapter_casts
from stages.lib.hardware import describe, device, set_up_cpu
from stages.lib.lineage import arguments_of, file_sha256, refuse_changed_weights, weights_sha256, write_lineage
from stages.lib.models import load_for_training, load_tokenizer
from stages.lib.plan import make_plan
from stages.lib.precision import resolve_precision
from stages.lib.preference_start import refuse_wrong_reference
from stages.lib.publish import published
from stages.lib.records import write_json
from stages.lib.schema import Dpo
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

BASE = Path("models/sft-merged")
PREFERENCES = Path("data/prepared/preferences")
OUT = Path("models/dpo")
LOG = Path("metrics/dpo_log.csv")
METRICS = Path("metrics/dpo.json")
LOG_COLUMNS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "reward_accuracy": "rewards/accuracies",
    "reward_margin": "rewards/margins",
    "reward_chosen": "rewards/chosen",
    "reward_rejected": "rewards/rejected",
}


def dpo(section: Dpo, root: Path) -> dict[str, Any]:
    refuse_changed_weights(BASE, kind="merged")
    threads = set_up_cpu(section.threads)
    section, dtype, precision = resolve_precision("dpo", section, BASE)
    tokenizer = load_tokenizer(BASE)
    model = load_for_training(BASE, section, dtype)
    train = PREFERENCES / "train.jsonl"
    pairs, dropped = preference_rows("dpo", train, tokenizer, section.max_length)
    lengths = pair_lengths(pairs)
    plan = make_plan("dpo", section, model, max(lengths), sequences=2)
    lineage = {
        "kind": "adapter",
        "base_weights_sha256": weights_sha256(BASE),
        "chat_template_sha256": file_sha256(BASE / "chat_template.jinja"),
        "data": {"preferences/train.jsonl": file_sha256(train)},
        "arguments": arguments_of(section),
        "rows": {"kept": len(pairs), "dropped": dropped},
    }
    with checkpoint_folder("dpo", {**lineage, **plan.decisions(), "threads": threads, **precision}) as folder:
        trainer = make_trainer(section, plan, dtype, model, tokenizer, pairs, folder)
        start = refuse_wrong_reference(section, rehearse("dpo", trainer, plan, lengths))
        report_progress(trainer, section.logging_steps)
        train_with_checkpoints(trainer, folder, section.checkpoint_minutes)
        with published(root / OUT) as out:
            out.mkdir()
            save_adapter(trainer.model, out)
            copy_tokenizer(BASE, out)
            write_lineage(out, lineage)
        with published(root / LOG) as path:
            write_log(trainer.state.log_history, path, LOG_COLUMNS, section.logging_steps)
        with published(root / METRICS) as path:
            write_json(path, {**start, "pairs": len(pairs), "pairs_too_long": dropped["too_long"]})
    return {**describe(), "threads": threads, **precision, "plan": asdict(plan), "rows": len(pairs)}


def make_trainer(
    section: Dpo, plan: Any, dtype: Any, model: Any, tokenizer: Any, pairs: list[dict[str, list[int]]], folder: Path
) -> Any:
    """trl's trainer on pairs that are tokenised already. The reference is the model with the new adapter off."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class TokenisedDPOTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    on_cpu = device() == "cpu"
    if on_cpu:
        attend_without_mask(model)
    if plan.dequantize_once:
        dequantize_once(model)
    arguments = DPOConfig(
        **trainer_arguments("dpo", section, plan, dtype, folder),
        max_length=None,  # no pair is too long
        beta=section.beta,
        loss_type=[loss.value for loss in section.loss_type],
        loss_weights=section.loss_weights or None,
        label_smoothing=section.label_smoothing,
        precompute_ref_log_probs=section.precompute_ref_log_probs,
    )
    trainer = TokenisedDPOTrainer(
        model,
        args=arguments,
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
        peft_config=lora_config(section),
    )
    keep_adapter_in_float32(trainer.model)
    if on_cpu:
        score_supervised_positions(trainer.model)
        skip_adapter_casts(trainer.model)
    return trainer


if __name__ == "__main__":
    run(dpo)
