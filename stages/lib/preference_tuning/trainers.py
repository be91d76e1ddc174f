"""trl's trainers of the stage preference, on rows that are tokenised already. CPO and ORPO are experimental there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from stages.lib.models.chat import IGNORED
from stages.lib.schema.choices import Algorithm
from stages.lib.training.trainer import trainer_arguments
from stages.lib.training.trl_trainer import tokenised_kto_trainer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from stages.lib.schema.training import Preference
    from stages.lib.training.plan import Plan
    from stages.lib.training.run import TrainingRun
    from stages.lib.training.trl_trainer import TrlTrainer

COLUMNS = {"loss": "loss", "learning_rate": "learning_rate"}
OF_PAIRS = {"nll_loss": "nll_loss", "reward_accuracy": "rewards/accuracies", "reward_margin": "rewards/margins"}
COLUMNS_OF = {
    Algorithm.orpo: {**OF_PAIRS, "log_odds_ratio": "log_odds_ratio"},
    Algorithm.cpo: OF_PAIRS,
    Algorithm.simpo: OF_PAIRS,
    Algorithm.kto: {"kl": "kl", "reward_chosen": "rewards/chosen", "reward_rejected": "rewards/rejected"},
}
"""Columns of metrics/preference_log.csv, and trl's names of what is in them."""


def make_trainer(tuning: TrainingRun, plan: Plan, rows: Sequence[Mapping[str, object]], folder: Path) -> Any:
    """The trainer that `tuning.section` asks for, ready for the steps in `plan`; checkpoints go into `folder`.

    `rows` are prompt_ids, chosen_ids and rejected_ids; for KTO prompt_ids, completion_ids, KL_completion_ids, label.
    """
    from datasets import Dataset

    section: Preference = tuning.section
    common = {**trainer_arguments(tuning.name, section, plan, tuning.dtype, folder), "beta": section.beta}
    kind, arguments = (
        of_answers(section, plan, common) if section.algorithm is Algorithm.kto else of_pairs(section, common)
    )
    dataset = Dataset.from_list([dict(row) for row in rows])
    trainer = kind(
        **tuning.model_and_adapter(plan),
        args=arguments,
        train_dataset=dataset,
        processing_class=tuning.tokenizer,
    )
    return tuning.prepared(trainer, plan, dataset)


def of_answers(section: Preference, plan: Plan, common: dict[str, object]) -> tuple[Any, Any]:
    """trl's trainer for KTO and its arguments, beside those that it has in `common` with others."""
    from trl import KTOConfig

    return tokenised_kto_trainer(), KTOConfig(
        **common,  # type: ignore[arg-type]
        max_length=None,  # no row is too long
        pad_to_multiple_of=plan.pad_to_multiple_of,
        desirable_weight=section.desirable_weight,
        undesirable_weight=section.undesirable_weight,
        router_aux_loss_coef=0.0,  # balances experts while they are trained; an adapter's are frozen
    )


def of_pairs(section: Preference, common: dict[str, object]) -> tuple[Any, Any]:
    """trl's trainer for ORPO, CPO or SimPO and its arguments, beside those that it has in `common` with others.

    SimPO is CPO's trainer with another loss, and without the cross entropy of the chosen answer.
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    common = {**common, "max_length": section.max_length, "remove_unused_columns": False}
    if section.algorithm is Algorithm.orpo:
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        class TokenisedORPOTrainer(ORPOTrainer):
            def tokenize_row(self, feature: dict[str, list[int]], model: object = None) -> dict[str, list[int]]:
                return tokenised_pair(feature)

        return TokenisedORPOTrainer, ORPOConfig(**common)  # type: ignore[arg-type]

    from trl.experimental.cpo import CPOConfig, CPOTrainer

    class TokenisedCPOTrainer(CPOTrainer):
        def tokenize_row(self, feature: dict[str, list[int]], model: object = None) -> dict[str, list[int]]:
            return tokenised_pair(feature)

    simpo = section.algorithm is Algorithm.simpo
    return TokenisedCPOTrainer, CPOConfig(
        **common,  # type: ignore[arg-type]
        loss_type="simpo" if simpo else "sigmoid",
        cpo_alpha=0.0 if simpo else section.cpo_alpha,
        simpo_gamma=section.simpo_gamma,
    )


def tokenised_pair(feature: dict[str, list[int]]) -> dict[str, list[int]]:
    """A pair's columns as trl's collator for ORPO and CPO takes them: whole sequences, labels on the answer alone."""
    row = {"prompt_input_ids": feature["prompt_ids"]}
    for side in ("chosen", "rejected"):
        ids = feature["prompt_ids"] + feature[f"{side}_ids"]
        row[f"{side}_input_ids"] = ids
        row[f"{side}_attention_mask"] = [1] * len(ids)
        row[f"{side}_labels"] = [IGNORED] * len(feature["prompt_ids"]) + feature[f"{side}_ids"]
    return row


def logged_columns(algorithm: Algorithm, trainer: TrlTrainer) -> dict[str, str]:
    """Columns of the log of a trainer that is done, and trl's names of them.

    KTO logs a reward of either kind only where a pass holds such answers.
    """
    columns = {**COLUMNS, **COLUMNS_OF[algorithm]}
    rewards = ("rewards/chosen", "rewards/rejected")
    found = {key for entry in trainer.state.log_history for key in entry}
    return {name: key for name, key in columns.items() if key in found or key not in rewards}
