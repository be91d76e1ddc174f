"""Direct preference optimisation: a new adapter on the merged SFT model.

Reads   models/sft-merged, data/prepared/preferences/train.jsonl
Writes  models/dpo: adapter, tokenizer, lineage.json; metrics/dpo_log.csv
Run     python -m stages.dpo
"""

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages.lib.entry import run
from stages.lib.fast_path import attend_without_mask, dequantize_once, score_supervised_positions, skip_adapter_casts
from stages.lib.hardware import describe, device, resolve_dtype, set_up_cpu
from stages.lib.lineage import arguments_of, file_sha256, weights_sha256, write_lineage
from stages.lib.models import load_for_training, load_tokenizer
from stages.lib.publish import published
from stages.lib.schema import Dpo
from stages.lib.training import (
    copy_tokenizer,
    keep_adapter_in_float32,
    lora_config,
    make_plan,
    save_adapter,
    trainer_arguments,
    write_log,
)
from stages.lib.training_rows import preference_rows

BASE = Path("models/sft-merged")
PREFERENCES = Path("data/prepared/preferences")
OUT = Path("models/dpo")
LOG = Path("metrics/dpo_log.csv")
LOG_COLUMNS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "reward_accuracy": "rewards/accuracies",
    "reward_margin": "rewards/margins",
    "reward_chosen": "rewards/chosen",
    "reward_rejected": "rewards/rejected",
}


def dpo(section: Dpo, root: Path) -> dict[str, Any]:
    threads = set_up_cpu(section.threads)
    dtype = resolve_dtype(section.dtype)
    tokenizer = load_tokenizer(BASE)
    model = load_for_training(BASE, section.quantization, dtype)
    train = PREFERENCES / "train.jsonl"
    pairs, dropped = preference_rows(train, tokenizer, section.max_length)
    longest = max(
        len(pair["prompt_ids"]) + len(pair[side]) for pair in pairs for side in ("chosen_ids", "rejected_ids")
    )
    plan = make_plan(section, model, longest=2 * longest)  # a pair is two rows
    with TemporaryDirectory() as scratch:
        trainer = make_trainer(section, plan, dtype, model, tokenizer, pairs, Path(scratch))
        trainer.train()
    with published(root / OUT) as out:
        out.mkdir()
        save_adapter(trainer.model, out)
        copy_tokenizer(BASE, out)
        write_lineage(
            out,
            {
                "kind": "adapter",
                "base_weights_sha256": weights_sha256(BASE),
                "chat_template_sha256": file_sha256(BASE / "chat_template.jinja"),
                "data": {"preferences/train.jsonl": file_sha256(train)},
                "arguments": arguments_of(section),
                "rows": {"kept": len(pairs), "dropped": dropped},
            },
        )
    with published(root / LOG) as path:
        write_log(trainer.state.log_history, path, LOG_COLUMNS)
    return {**describe(), "threads": threads, "dtype": str(dtype), "plan": asdict(plan), "rows": len(pairs)}


def make_trainer(
    section: Dpo, plan: Any, dtype: Any, model: Any, tokenizer: Any, pairs: list[dict[str, list[int]]], scratch: Path
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
        **trainer_arguments(section, plan, dtype, scratch),
        max_length=None,  # no pair is too long
        beta=section.beta,
        loss_type=section.loss_type,
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
