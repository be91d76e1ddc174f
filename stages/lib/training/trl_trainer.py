"""What trl's trainers have in common, and the private names of theirs that Graft reads.

trl 1.16 has no public way to see the figures of a single pass before they are logged; it keeps their means in
`_metrics`, ORPO's and CPO's trainers in `_stored_metrics`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from torch.nn import Module
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import CallbackHandler
    from trl import DPOTrainer, KTOTrainer

    from stages.lib.models.chat import TokenRow

Batch = dict[str, Any]
"""Columns of a batch by their names: tensors, and plain numbers that flash attention asks for."""


class TrlTrainer(Protocol):
    """A trainer once it is built: it has a model and rows, which the libraries' own types leave open."""

    model: Any  # transformers' own, or peft's wrapper around it
    model_wrapped: Any  # the model with what several processes put around it
    train_dataset: Dataset
    data_collator: Callable[[list[Any]], Batch]
    accelerator: Accelerator
    args: TrainingArguments
    state: TrainerState
    control: TrainerControl
    callback_handler: CallbackHandler

    def add_callback(self, callback: TrainerCallback) -> None: ...
    def remove_callback(self, callback: type[TrainerCallback]) -> None: ...
    def train(self, resume_from_checkpoint: str | None = None) -> Any: ...
    def compute_loss(self, model: Module, inputs: Batch) -> Any: ...


def batch_of(trainer: TrlTrainer, rows: list[TokenRow]) -> Batch:
    """Rows of the data set as a batch on the trainer's device."""
    private: Any = trainer
    return private._prepare_inputs(trainer.data_collator(rows))


def take_figures(trainer: TrlTrainer) -> dict[str, float]:
    """The figures of the last pass by trl's names, out of the trainer: nothing of that pass will be logged."""
    private: Any = trainer
    kept = kept_figures(trainer)
    figures = {key: float(values[-1]) for key, values in kept.items()}
    kept.clear()
    private._total_train_tokens = 0
    return figures


def kept_figures(trainer: object) -> dict[str, list[float]]:
    """The figures of training's passes since the last line of the log, by trl's names; the trainer logs their means."""
    private: Any = trainer
    kept = getattr(private, "_metrics", None) or private._stored_metrics  # the latter in trl's ORPO and CPO
    return kept["train"]


def tokenised_dpo_trainer() -> type[DPOTrainer]:
    """trl's trainer for DPO, on pairs that are tokenised already: it has no option to take rows as they are.

    Where the reference's log-probabilities are computed before training, trl's own does so while it is built, by a head
    and layers that are not yet what training computes with: slower, and not at all for a model whose decoder returns
    logits' kind of output (Llama 4's). Here `refer` does it, once the trainer is ready.
    """
    from trl import DPOTrainer

    class TokenisedDPOTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: object, *_: object) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *_: object) -> Any:
            return dataset

        def refer(self) -> None:
            """Add the reference's log-probabilities to the rows."""
            given: Any = self.args  # trl.DPOConfig
            size = given.precompute_ref_batch_size or given.per_device_train_batch_size
            self.train_dataset = super()._precompute_ref_logps(self.train_dataset, "train", size)

    return TokenisedDPOTrainer


def tokenised_kto_trainer() -> type[KTOTrainer]:
    """trl's trainer for KTO, on answers that are tokenised and in passes already.

    trl's own preparation would put all better answers of pairs before all worse ones, and takes passes as they come: a
    prompt that is twice in one would lend its own other answer to the estimate of the KL.
    """
    from trl import KTOTrainer

    class TokenisedKTOTrainer(KTOTrainer):
        def _prepare_dataset(self, dataset: object, *_: object) -> Any:
            return dataset

    return TokenisedKTOTrainer
