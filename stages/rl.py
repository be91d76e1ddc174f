"""Reinforcement learning on the merged SFT model's own answers, by GRPO or RLOO. Off unless rl.enabled is true.

Reads   models/sft-merged; data/prepared/pdf_qa: the trained questions, and the evaluation sets that none may be of;
        models/reward, where rl.reward is model or both; conf/accelerate
Writes  models/rl: adapter, tokenizer, lineage.json (which alone says "off" where it is off); metrics/rl_log.csv;
        metrics/rl_samples.jsonl: answers before and after with their rewards; metrics/rl.json: what they earned
Run     python -m stages.rl rl.enabled=true
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.evaluation.batches import fitting_batches
from stages.lib.evaluation.generation import sample_answers
from stages.lib.evaluation.scored_rows import Record
from stages.lib.every_stage.entry import run
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import OFF, refuse_changed_weights, weights_sha256, write_lineage
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_json, write_jsonl
from stages.lib.hardware import device
from stages.lib.models.chat import stop_ids
from stages.lib.rewards.policy_start import refuse_wrong_reference
from stages.lib.rewards.questions import Line, probed, refuse_nothing_to_learn, rewarded, summary, trained_questions
from stages.lib.rewards.reward_functions import Reward, for_trl, rewards_of
from stages.lib.rewards.reward_model import load_scorer, plan_of
from stages.lib.schema.choices import RlAlgorithm, RlReward
from stages.lib.schema.reinforcement import Rl
from stages.lib.training.launcher import on_all_gpus
from stages.lib.training.plan import Plan
from stages.lib.training.processes import from_main, is_main
from stages.lib.training.rehearsal import first_step
from stages.lib.training.run import TrainingRun, begin
from stages.lib.training.trainer import keep_adapter_in_float32, lora_config, trainer_arguments, use_loraplus
from stages.lib.training.trl_trainer import TrlTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BASE = Path("models/sft-merged")
PDF_QA = Path("data/prepared/pdf_qa")
REWARD = Path("models/reward")
ACCELERATE = Path("conf/accelerate")
OUT = Path("models/rl")
LOG = Path("metrics/rl_log.csv")
SAMPLES = Path("metrics/rl_samples.jsonl")
METRICS = Path("metrics/rl.json")
LOG_COLUMNS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "reward": "reward",
    "reward_std": "reward_std",
    "same_reward": "frac_reward_zero_std",
    "kl": "kl",
    "entropy": "entropy",
    "answer_tokens": "completions/mean_length",
    "unstopped": "completions/clipped_ratio",
}


def rl(section: Rl, root: Path) -> dict[str, Any]:
    return train(section, root) if section.enabled else publish_nothing(root)


@on_all_gpus(ACCELERATE)
def train(section: Rl, root: Path) -> dict[str, Any]:
    """Answer, compare, train, answer again, publish."""
    refuse_changed_weights(BASE, kind="merged")
    if section.use_vllm and device() != "cuda":
        raise UserError("rl.use_vllm: found true and no GPU; needed one that vLLM runs on. Set rl.use_vllm=false")
    scorer = None if section.reward is RlReward.key_facts else load_scorer(REWARD, BASE)
    tuning = begin("rl", section, BASE)
    records, lengths, counts = trained_questions(section, PDF_QA, tuning.tokenizer)
    rewards = rewards_of(section.reward, tuning.tokenizer, scorer)
    before = answered(tuning, tuning.model, records, rewards)
    refuse_nothing_to_learn(section, before)
    plan = plan_of(tuning, lengths, sequences=1, fused=True)
    left_out = {key: count for key, count in counts.items() if key != "asked"}
    lineage = tuning.lineage([PDF_QA / "train.jsonl"], len(records), left_out)
    if scorer:
        lineage["reward_weights_sha256"] = weights_sha256(REWARD)
    with tuning.checkpoints(plan, lineage) as folder:
        trainer = make_trainer(tuning, plan, records, rewards, folder)
        check = partial(refuse_wrong_reference, beta=section.beta, dtype=tuning.dtype)
        start = first_step(trainer, check)
        train_in_memory(tuning, trainer, plan, folder)
        after = answered(tuning, trainer.model, records, rewards)
        tuning.publish(trainer, root / OUT, lineage)
        columns = {name: key for name, key in LOG_COLUMNS.items() if section.beta or name != "kl"}
        tuning.publish_log(trainer, root / LOG, columns)
        with published(root / SAMPLES) as path:
            write_jsonl(path, beside(before, after))
        with published(root / METRICS) as path:
            write_json(path, {**start, "questions": counts, "before": summary(before), "after": summary(after)})
    return tuning.facts(plan, questions=len(records))


def answered(
    tuning: TrainingRun, model: PreTrainedModel, records: list[Record], rewards: dict[str, Reward]
) -> list[Line]:
    """Answers of `model` to a few of the questions, and what they earn; the same draws before and after training."""
    section, few = tuning.section, probed(records)
    lines = None
    if is_main():
        training = model.training
        model.eval()
        prompts = [record["messages"][:-1] for record in few]
        batch = fitting_batches(tuning.model, tuning.hardware, section.max_completion_length)
        room = section.max_completion_length
        lines = rewarded(rewards, few, sample_answers(
            model, tuning.tokenizer, prompts, section.num_generations, section.temperature, section.seed, room,
            batch.generated,
        ))  # fmt: skip
        model.train(training)
        found = summary(lines)
        print(
            f"rl: {section.num_generations} answers to each of {len(few)} questions earn {found['reward']:.3f} in the "
            f"mean, {found['stopped']:.2f} of them stopped, {found['mixed']:.2f} of the questions have better and "
            "worse ones",
            flush=True,
        )
    return from_main(lines)


def make_trainer(
    tuning: TrainingRun, plan: Plan, records: list[Record], rewards: dict[str, Reward], folder: Path
) -> Any:
    """trl's trainer for the algorithm. The reference is the model with the new adapter off."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    section, tokenizer = tuning.section, tuning.tokenizer
    kinds: dict[RlAlgorithm, Any] = {
        RlAlgorithm.grpo: (GRPOConfig, GRPOTrainer),
        RlAlgorithm.rloo: (RLOOConfig, RLOOTrainer),
    }
    config, kind = kinds[section.algorithm]
    common = trainer_arguments(tuning.name, section, plan, tuning.dtype, folder)
    arguments = config(
        **{**common, "logging_first_step": True},  # refuse_wrong_reference looks at it
        num_generations=section.num_generations,
        max_completion_length=section.max_completion_length,
        temperature=section.temperature,
        beta=section.beta,
        use_vllm=section.use_vllm,
        vllm_mode="colocate",
    )
    stops = stop_ids(tuning.model.generation_config) | {tokenizer.eos_token_id}
    rows = [{"prompt": record["messages"][:-1], "place": place} for place, record in enumerate(records)]
    trainer = kind(
        model=tuning.model,
        reward_funcs=[for_trl(name, reward, records, stops, tokenizer) for name, reward in rewards.items()],
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora_config(section, tuning.model),
    )
    keep_adapter_in_float32(trainer.model)
    if section.lora.loraplus_lr_ratio:
        use_loraplus(trainer, section.lora)
    return trainer


def train_in_memory(tuning: TrainingRun, trainer: TrlTrainer, plan: Plan, folder: Path) -> None:
    """Train; a GPU whose memory is full is said in words: answers are drawn in each step, and no pass is like another.

    Raises UserError then.
    """
    import torch

    try:
        tuning.train(trainer, folder)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"answers of {tuning.section.max_completion_length} tokens, {tuning.section.batch_size} in a step, don't "
            f"fit into the GPU's memory. Set rl.micro_batch_size={max(1, plan.micro_batch_size // 2)}, or a smaller "
            "rl.batch_size or rl.max_completion_length"
        ) from error


def beside(before: list[Line], after: list[Line]) -> list[dict[str, object]]:
    """A line for each question with its answers before and after training."""
    return [
        {**{key: value for key, value in old.items() if key != "answers"}, "before": old["answers"],
         "after": new["answers"]}
        for old, new in zip(before, after, strict=True)
    ]  # fmt: skip


def publish_nothing(root: Path) -> dict[str, Any]:
    """The outs of a stage that is off: a lineage that says so, and empty figures."""
    with published(root / OUT) as out:
        out.mkdir()
        write_lineage(out, OFF)
    with published(root / LOG) as path:
        path.write_text(",".join(("step", *LOG_COLUMNS)) + "\n", encoding="utf-8")
    with published(root / SAMPLES) as path:
        write_jsonl(path, [])
    with published(root / METRICS) as path:
        write_json(path, {})
    return {"enabled": False}


if __name__ == "__main__":
    run(rl)
