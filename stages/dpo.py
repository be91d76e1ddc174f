"""Direct preference optimisation: a new adapter on the merged SFT model.

Reads   models/sft-merged, data/prepared/preferences/train.jsonl
Writes  models/dpo: adapter, tokenizer, lineage.json; metrics/dpo_log.csv
Run     python -m stages.dpo
"""

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages.lib.chat import encode_answer
from stages.lib.entry import run
from stages.lib.errors import UserError
from stages.lib.fast_path import attend_without_mask, score_supervised_positions, skip_adapter_casts
from stages.lib.hardware import describe, device, resolve_dtype, use_threads
from stages.lib.lineage import file_sha256, weights_sha256, write_lineage
from stages.lib.models import load_for_training, load_tokenizer
from stages.lib.publish import published
from stages.lib.records import read_jsonl
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
    threads = use_threads(section.threads)
    dtype = resolve_dtype(section.dtype)
    tokenizer = load_tokenizer(BASE)
    model = load_for_training(BASE, section.quantization, dtype)
    train = PREFERENCES / "train.jsonl"
    pairs, dropped = training_pairs(train, tokenizer, section.max_length)
    longest = max(
        len(pair["prompt_ids"]) + len(pair[side]) for pair in pairs for side in ("chosen_ids", "rejected_ids")
    )
    plan = make_plan(section, longest=2 * longest)  # a pair is two rows
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
                "rows": {"kept": len(pairs), "dropped": dropped},
            },
        )
    with published(root / LOG) as path:
        write_log(trainer.state.log_history, path, LOG_COLUMNS)
    return {**describe(), "threads": threads, "dtype": str(dtype), "plan": asdict(plan), "rows": len(pairs)}


def training_pairs(path: Path, tokenizer: Any, max_length: int) -> tuple[list[dict[str, list[int]]], dict[str, int]]:
    """Tokenise pairs as trl's collator takes them: prompt_ids, chosen_ids, rejected_ids.

    Both answers end with their stop token. A pair longer than `max_length` tokens is dropped and counted: trl would
    cut the end of the answer, stop token and all. Raises UserError if no pair is left.
    """
    pairs, too_long = [], 0
    for record in read_jsonl(path):
        prompt, chosen = encode_answer(tokenizer, record["prompt"], record["chosen"])
        _, rejected = encode_answer(tokenizer, record["prompt"], record["rejected"])
        if len(prompt) + max(len(chosen), len(rejected)) > max_length:
            too_long += 1
        else:
            pairs.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    if not pairs:
        raise UserError(f"{path}: all {too_long} pairs are longer than dpo.max_length={max_length} tokens; raise it")
    return pairs, {"too_long": too_long}


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
