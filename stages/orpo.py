"""ORPO, SFT and preferences in one step: an adapter on the base model. Off unless orpo.enabled is true.

Reads   models/base (which probe-base tried), data/prepared/preferences/train.jsonl, conf/accelerate
Writes  models/orpo: adapter, tokenizer, lineage.json (which alone says "off" where it is off); metrics/orpo_log.csv;
        metrics/orpo.json: how exact its arithmetic is
Run     python -m stages.orpo orpo.enabled=true
"""

from pathlib import Path
from typing import Any

from stages.lib.every_stage.entry import run
from stages.lib.every_stage.lineage import OFF, write_lineage
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_json
from stages.lib.schema.training import Orpo
from stages.lib.training.launcher import on_all_gpus
from stages.lib.training.parity import answered_rows
from stages.lib.training.plan import Plan
from stages.lib.training.run import TrainingRun, begin
from stages.lib.training.token_rows import pair_lengths, preference_rows
from stages.lib.training.trainer import trainer_arguments

BASE = Path("models/base")
PROBE = Path("metrics/probe_base.json")  # that it is there says that this base can be trained
PREFERENCES = Path("data/prepared/preferences")
ACCELERATE = Path("conf/accelerate")
OUT = Path("models/orpo")
LOG = Path("metrics/orpo_log.csv")
METRICS = Path("metrics/orpo.json")
LOG_COLUMNS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "nll_loss": "nll_loss",
    "log_odds_ratio": "log_odds_ratio",
    "reward_accuracy": "rewards/accuracies",
    "reward_margin": "rewards/margins",
}


@on_all_gpus(ACCELERATE)
def orpo(section: Orpo, root: Path) -> dict[str, Any]:
    if not section.enabled:
        return publish_nothing(root)
    tuning = begin("orpo", section, BASE)
    train = PREFERENCES / "train.jsonl"
    pairs, dropped = preference_rows("orpo", {train: 1.0}, tuning.tokenizer, section.max_length)
    lengths = pair_lengths(pairs)
    plan = tuning.plan(lengths, answered_rows(pairs), sequences=2, all_logits=True)
    lineage = tuning.lineage([train], len(pairs), dropped)
    with tuning.checkpoints(plan, lineage) as folder:
        trainer, plan, start = tuning.rehearsed(
            plan,
            lambda plan: make_trainer(tuning, plan, pairs, folder),
            lengths,
            lambda indices: answered_rows([pairs[index] for index in indices]),
        )
        tuning.train(trainer, folder)
        tuning.publish(trainer, root / OUT, lineage)
        tuning.publish_log(trainer, root / LOG, LOG_COLUMNS)
        tuning.publish_metrics(root / METRICS, plan, start)
    return tuning.facts(plan, rows=len(pairs))


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


def make_trainer(tuning: TrainingRun, plan: Plan, pairs: list[dict[str, list[int]]], folder: Path) -> Any:
    """trl's trainer on pairs that are tokenised already."""
    import os

    from datasets import Dataset

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    class TokenisedORPOTrainer(ORPOTrainer):
        def tokenize_row(self, feature: dict[str, list[int]], model: object = None) -> dict[str, list[int]]:
            row = {"prompt_input_ids": feature["prompt_ids"]}
            for side in ("chosen", "rejected"):
                ids = feature["prompt_ids"] + feature[f"{side}_ids"]
                row[f"{side}_input_ids"] = ids
                row[f"{side}_attention_mask"] = [1] * len(ids)
                row[f"{side}_labels"] = [-100] * len(feature["prompt_ids"]) + feature[f"{side}_ids"]
            return row

    section = tuning.section
    arguments = ORPOConfig(
        **trainer_arguments(tuning.name, section, plan, tuning.dtype, folder),
        max_length=section.max_length,
        beta=section.beta,
        remove_unused_columns=False,
    )
    dataset = Dataset.from_list(pairs)
    trainer = TokenisedORPOTrainer(
        **tuning.model_and_adapter(plan),
        args=arguments,
        train_dataset=dataset,
        processing_class=tuning.tokenizer,
    )
    return tuning.prepared(trainer, plan, dataset)


if __name__ == "__main__":
    run(orpo)
