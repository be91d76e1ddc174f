"""Unsloth as the engine of a training stage: its kernels under Graft's data, masks, gates and lineage.

Unsloth replaces classes and functions of transformers, peft and trl in the whole process, and wants to be imported
before them: one process per stage, and `start_engine` is called before anything else is loaded. Its trainers take a
model that has its adapter already and ignore `peft_config`. Read and tried at unsloth 2026.10.9.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.errors import UserError
from stages.lib.hardware import nvidia_gpu
from stages.lib.models.loading import refuse_unknown_modules
from stages.lib.schema.choices import Engine, Quantization
from stages.lib.schema.training import UNSLOTH, Training
from stages.lib.training.checkpoints import checkpoint_home
from stages.lib.training.plan import Plan
from stages.lib.training.target_modules import adapted_by
from stages.lib.training.trainer import variant_of
from stages.lib.training.trl_trainer import TrlTrainer

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel

ADAPTER = "default"
"""peft's name of the adapter that is trained."""

UNLOGGED = {"mean_token_accuracy"}
"""Figures of trl's SFT that Unsloth's doesn't compute: it never has the logits as a whole."""


def start_engine(name: str, section: Training) -> dict[str, str]:
    """Import Unsloth where `section` asks for it; returns the engine and its version for the run record.

    `name` is the section's. Raises UserError without a GPU, and in a process where another engine was at work before:
    what Unsloth changes there stays changed.
    """
    alone = f"needed a process of its own: one `python -m stages.{name}` for each engine"
    if section.engine is Engine.trl:
        if "unsloth" in sys.modules:
            raise UserError(f"{name}.engine: found 'trl' after unsloth was imported, which replaces it; {alone}")
        return {"engine": "trl", "engine_version": version("trl")}
    if not nvidia_gpu():
        raise UserError(f"{name}.engine: found 'unsloth' and no NVIDIA GPU; needed one, or {name}.engine=trl")
    early = sorted({"transformers", "peft", "trl"} & set(sys.modules))
    if early and "unsloth" not in sys.modules:
        raise UserError(f"{name}.engine: found {', '.join(early)} imported before unsloth; {alone}")
    # The trainers that it generates would otherwise be in the working directory, and a counter would be asked.
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(checkpoint_home().with_name("unsloth")))
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    import unsloth  # noqa: F401

    return {"engine": "unsloth", "engine_version": ", ".join(f"{package} {version(package)}" for package in UNSLOTH)}


def load_for_unsloth(directory: Path, section: Training, dtype: torch.dtype) -> Any:
    """A model to tune as `section` asks, as load_for_training: the same frozen weights in 16 or 4 bits.

    Raises UserError for lora.target_modules that the model doesn't have.
    """
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        str(directory.absolute()),  # a relative one could name a repository of the hub
        max_seq_length=section.max_length,
        dtype=dtype,
        load_in_4bit=section.quantization is Quantization.nf4,
        use_gradient_checkpointing=False,  # decided with the adapter, once the rows are known
        use_exact_model_name=True,  # never another model from the hub in place of this one
        fix_tokenizer=False,  # the tokenizer is ours
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    refuse_unknown_modules(model, section.lora.target_modules)
    return model


def add_adapter(model: PreTrainedModel, section: Training, plan: Plan) -> Any:
    """`model` with a new adapter, as trainer.lora_config describes it, computed by Unsloth's kernels."""
    from unsloth import FastLanguageModel

    adapted: Any = FastLanguageModel.get_peft_model(
        model,
        r=section.lora.r,
        lora_alpha=section.lora.lora_alpha,
        lora_dropout=section.lora.lora_dropout,
        bias=section.lora.bias,
        use_gradient_checkpointing="unsloth" if plan.gradient_checkpointing else False,
        random_state=section.seed,
        **variant_of(section.lora),
        **adapted_by(section.lora, model),
    )
    adapted.peft_config[ADAPTER].auto_mapping = None  # as peft itself writes it for a model that it knows
    return adapted


def settle_trainer(trainer: TrlTrainer, rows: Dataset) -> None:
    """Put right what trainers do to a model that comes with its adapter.

    `rows` is the data set that the trainer was given. Raises UserError where it trains on anything else.
    """
    keep_one_adapter(trainer.model)
    trainer.model.for_training()  # the trainer leaves it set up for generation
    refuse_changed_rows(rows, trainer.train_dataset)


def keep_one_adapter(model: PeftModel) -> None:
    """Remove all adapters of a peft model but the one that is trained.

    trl's DPO takes an adapter that is there already for a pretrained one, and keeps a copy as the reference. Without it
    the reference is the model with the adapter off, as it is where trl adds the adapter, and one adapter is saved.
    """
    for name in set(model.peft_config) - {ADAPTER}:
        model.delete_adapter(name)


def refuse_changed_rows(given: Dataset, kept: Dataset) -> None:
    """Raise UserError unless a trainer `kept` the tokens and masks that it was `given`, two data sets, row by row."""
    if kept is given:
        return
    if len(kept) != len(given):
        raise UserError(f"engine=unsloth: its trainer holds {len(kept)} rows, needed {len(given)}; set engine=trl")
    for number, (row, found) in enumerate(zip(given, kept, strict=True)):
        changed = [key for key in row if found.get(key) != row[key]]
        if changed:
            raise UserError(
                f"engine=unsloth: its trainer changed {', '.join(changed)} of row {number}; needed them as Graft "
                "tokenised them; set engine=trl"
            )
