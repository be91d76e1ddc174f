"""Direct preference optimisation: a new adapter on the merged SFT model.

Reads   models/sft-merged, data/prepared/preferences/train.jsonl (of unpaired.jsonl the count: a vote without a partner
        is KTO's alone), data/prepared/sampled_preferences/train.jsonl (empty where sample-preferences is off),
        conf/accelerate
Writes  models/dpo: adapter, tokenizer, lineage.json; metrics/dpo_log.csv; metrics/dpo.json: where it started, how exact
        its arithmetic is, and pairs
Run     python -m stages.dpo
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from stages.lib.dpo_start import refuse_wrong_reference
from stages.lib.every_stage.entry import run
from stages.lib.every_stage.lineage import refuse_changed_weights
from stages.lib.every_stage.records import read_jsonl
from stages.lib.schema.training import Dpo
from stages.lib.training.launcher import on_all_gpus
from stages.lib.training.parity import answered_rows
from stages.lib.training.plan import Plan
from stages.lib.training.run import TrainingRun, begin
from stages.lib.training.token_rows import pair_lengths, preference_rows
from stages.lib.training.trainer import trainer_arguments
from stages.lib.training.trl_trainer import tokenised_dpo_trainer

BASE = Path("models/sft-merged")
PREFERENCES = Path("data/prepared/preferences")
SAMPLED = Path("data/prepared/sampled_preferences")
ACCELERATE = Path("conf/accelerate")
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


@on_all_gpus(ACCELERATE)
def dpo(section: Dpo, root: Path) -> dict[str, Any]:
    refuse_changed_weights(BASE, kind="merged")
    tuning = begin("dpo", section, BASE)
    files = shares(section)
    pairs, dropped = preference_rows("dpo", files, tuning.tokenizer, section.max_length)
    lengths = pair_lengths(pairs)
    plan = tuning.plan(lengths, answered_rows(pairs), sequences=2)
    lineage = tuning.lineage(list(files), len(pairs), dropped)
    with tuning.checkpoints(plan, lineage) as folder:
        check = partial(refuse_wrong_reference, section, compiled=plan.torch_compile)
        trainer, plan, start = tuning.rehearsed(
            plan,
            lambda plan: make_trainer(tuning, plan, pairs, folder),
            lengths,
            lambda indices: answered_rows([pairs[index] for index in indices]),
            check,
        )
        tuning.train(trainer, folder)
        tuning.publish(trainer, root / OUT, lineage)
        tuning.publish_log(trainer, root / LOG, LOG_COLUMNS)
        counts = {"pairs": len(pairs), **{f"pairs_{why}": count for why, count in dropped.items()}, **passed_over()}
        tuning.publish_metrics(root / METRICS, plan, start, **{**start, **counts})
    return tuning.facts(plan, rows=len(pairs))


def passed_over() -> dict[str, int]:
    """How many votes without a partner are not learned from, where there are any."""
    alone = sum(1 for _ in read_jsonl(PREFERENCES / "unpaired.jsonl"))
    if alone:
        print(
            f"dpo: {alone} votes on one answer are passed over; preference.algorithm=kto learns from them", flush=True
        )
    return {"votes_unpaired": alone} if alone else {}


def shares(section: Dpo) -> dict[Path, float]:
    """The files of pairs, and which share of each is trained on besides people's votes, which all are.

    A missing file is refused where it is read.
    """
    prepared, sampled = PREFERENCES / "train.jsonl", SAMPLED / "train.jsonl"
    if sampled.is_file() and not sampled.stat().st_size:
        return {prepared: 1.0}
    return {prepared: section.prepared_share, sampled: 1.0}


def make_trainer(tuning: TrainingRun, plan: Plan, pairs: list[dict[str, list[int]]], folder: Path) -> Any:
    """trl's trainer on pairs that are tokenised already. The reference is the model with the new adapter off."""
    from datasets import Dataset
    from trl import DPOConfig

    section = tuning.section
    arguments = DPOConfig(
        **trainer_arguments(tuning.name, section, plan, tuning.dtype, folder),
        max_length=None,  # no pair is too long
        pad_to_multiple_of=plan.pad_to_multiple_of,
        beta=section.beta,
        loss_type=[loss.value for loss in section.loss_type],
        loss_weights=section.loss_weights or None,
        label_smoothing=section.label_smoothing,
        precompute_ref_log_probs=section.precompute_ref_log_probs,
        router_aux_loss_coef=0.0,  # balances experts while they are trained; an adapter's are frozen
    )
    dataset = Dataset.from_list(pairs)
    trainer = tokenised_dpo_trainer()(
        **tuning.model_and_adapter(plan),
        args=arguments,
        train_dataset=dataset,
        processing_class=tuning.tokenizer,
    )
    trainer = tuning.prepared(trainer, plan, dataset)
    if section.precompute_ref_log_probs:
        trainer.refer()
    return trainer


if __name__ == "__main__":
    run(dpo)
