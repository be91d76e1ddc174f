"""A reward model from preference pairs: one score for an answer. Off unless reward.enabled is true.

Reads   models/sft-merged, data/prepared/preferences, conf/accelerate
Writes  models/reward: adapter and head, tokenizer, lineage.json (which alone says "off" where it is off);
        metrics/reward_log.csv; metrics/reward.json: accuracy on held-out pairs beside that of taking the shorter
        answer, and the correlation of score and length
Run     python -m stages.reward reward.enabled=true
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.entry import run
from stages.lib.every_stage.lineage import OFF, refuse_changed_weights, write_lineage
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_json
from stages.lib.rewards.held_out_scores import figures_of, held_out_rows
from stages.lib.rewards.reward_model import (
    begin_rewards,
    plan_of,
    refuse_frozen_head,
    refuse_other_scores,
    refuse_wrong_start,
    scores,
)
from stages.lib.schema.reinforcement import Reward
from stages.lib.training.launcher import on_all_gpus
from stages.lib.training.plan import Plan
from stages.lib.training.processes import is_main
from stages.lib.training.rehearsal import rehearse
from stages.lib.training.run import TrainingRun
from stages.lib.training.token_rows import pair_lengths, preference_rows
from stages.lib.training.trainer import keep_adapter_in_float32, lora_config, trainer_arguments, use_loraplus

if TYPE_CHECKING:
    from peft import PeftModel

BASE = Path("models/sft-merged")
PREFERENCES = Path("data/prepared/preferences")
ACCELERATE = Path("conf/accelerate")
OUT = Path("models/reward")
LOG = Path("metrics/reward_log.csv")
METRICS = Path("metrics/reward.json")
LOG_COLUMNS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "accuracy": "accuracy",
    "margin": "margin",
    "mean_reward": "mean_reward",
}


def reward(section: Reward, root: Path) -> dict[str, Any]:
    return train(section, root) if section.enabled else publish_nothing(root)


@on_all_gpus(ACCELERATE)
def train(section: Reward, root: Path) -> dict[str, Any]:
    """Train, measure on held-out pairs, publish."""
    refuse_changed_weights(BASE, kind="merged")
    tuning = begin_rewards("reward", section, BASE)
    file = PREFERENCES / "train.jsonl"
    pairs, dropped = preference_rows("reward", {file: 1.0}, tuning.tokenizer, section.max_length)
    lengths = pair_lengths(pairs)
    plan = plan_of(tuning, lengths, sequences=2)
    lineage = tuning.lineage([file], len(pairs), dropped)
    with tuning.checkpoints(plan, lineage) as folder:
        trainer = make_trainer(tuning, plan, pairs, folder)
        start = rehearse("reward", trainer, plan, lengths, tuning.dtype, refuse_wrong_start)
        tuning.train(trainer, folder)
        figures = measured(tuning, trainer.model) if is_main() else {}
        tuning.publish(trainer, root / OUT, lineage)
        tuning.publish_log(trainer, root / LOG, LOG_COLUMNS)
        with published(root / METRICS) as path:
            write_json(path, {**figures, **start, "pairs": len(pairs), **dropped})
    return tuning.facts(plan, rows=len(pairs))


def make_trainer(tuning: TrainingRun, plan: Plan, pairs: list[dict[str, list[int]]], folder: Path) -> Any:
    """trl's trainer on whole rows that are tokenised already: prompt and answer, up to the stop token."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    section = tuning.section
    arguments = RewardConfig(
        **trainer_arguments(tuning.name, section, plan, tuning.dtype, folder),
        max_length=None,  # trl would drop what is longer and say nothing
        pad_to_multiple_of=plan.pad_to_multiple_of,
    )
    adapter = lora_config(section, tuning.model)
    adapter.task_type = "SEQ_CLS"  # else the head is neither trained nor saved
    rows = [{f"{side}_ids": pair["prompt_ids"] + pair[f"{side}_ids"] for side in ("chosen", "rejected")}
            for pair in pairs]  # fmt: skip
    trainer: Any = RewardTrainer(
        model=tuning.model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tuning.tokenizer,
        peft_config=adapter,
    )
    refuse_frozen_head(trainer.model)
    keep_adapter_in_float32(trainer.model)
    if section.lora.loraplus_lr_ratio:
        use_loraplus(trainer, section.lora)
    return trainer


def measured(tuning: TrainingRun, model: PeftModel) -> dict[str, Any]:
    """Figures of the trained `model` on held-out pairs, whose scores are the same once it is saved and loaded again."""
    chosen, rejected, lengths, dropped = held_out_rows(
        PREFERENCES / "evaluation.jsonl", tuning.tokenizer, tuning.section.max_length
    )
    rows = [*chosen, *rejected]
    found = scores(model, rows, tuning.tokenizer.pad_token_id, tuning.dtype)
    reloaded = refuse_other_scores(tuning, model, rows, found)
    figures = figures_of(found[: len(chosen)], found[len(chosen) :], lengths)
    right, shorter = figures["held_out_accuracy"], figures["shorter_answer_accuracy"]["value"]
    print(
        f"reward: ranks {right['value']:.2f} [{right['low']:.2f}, {right['high']:.2f}] of {len(chosen)} held-out pairs "
        f"as people did; taking the shorter answer {shorter:.2f}; score and length correlate by "
        f"{figures['correlation_with_length']:+.2f}",
        flush=True,
    )
    if right["low"] <= shorter:
        print("reward: that is no better than taking the shorter answer: don't train by it yet", flush=True)
    return {**figures, "held_out_too_long": dropped, "reload_difference": float(f"{reloaded:.1e}")}


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


if __name__ == "__main__":
    run(reward)
