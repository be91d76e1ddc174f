"""A model with one output, the reward of an answer: loading, scoring, and what must hold before and after training.

Its head is one linear layer on the hidden state of a row's last token that isn't padding: the answer's stop token.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stages.lib.evaluation.batches import batches_by_length
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import read_lineage, refuse_damaged, refuse_foreign_base
from stages.lib.hardware import device, resolve_dtype, set_up_cpu
from stages.lib.models.chat import stop_ids
from stages.lib.models.loading import (
    LOCAL,
    keep_4bit_weights_unpacked,
    load_tokenizer,
    no_code_of_its_own,
    quiet_libraries,
    refuse_unknown_modules,
)
from stages.lib.schema.choices import Choice, Dtype, Quantization
from stages.lib.training.plan import Plan, make_plan
from stages.lib.training.precision import resolve_precision
from stages.lib.training.processes import count_here, is_main
from stages.lib.training.run import TrainingRun, find_common_hardware
from stages.lib.training.target_modules import with_target_modules
from stages.lib.training.trainer import save_adapter
from stages.lib.training.unsloth_engine import start_engine

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch.nn import Linear, Module
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stages.lib.schema.reinforcement import PlainTraining

HEAD = "score"
"""The head's name in all of transformers' models for scores that peft keeps with an adapter."""

START_LIMIT = 1e-4
"""Of the loss before training, from ln 2, and of the rewards, from 0: a head of zeros gives both exactly."""

RELOAD_LIMIT = 1e-3
"""Between a score and the same one after saving and loading; equal sums give 0."""

BATCH_TOKENS = 2048
"""Padded tokens of a batch that is scored."""


def begin_rewards(name: str, section: PlainTraining, base: Path) -> TrainingRun:
    """Set up this process and load the model in `base` as one that scores answers, with a head of zeros."""
    engine = start_engine(name, section)
    if is_main():
        refuse_damaged(base)
    threads = set_up_cpu(section.threads, count_here())
    section = with_target_modules(name, section, base)
    section, dtype, precision = resolve_precision(name, section, base, find_common_hardware())
    tokenizer = load_tokenizer(base)
    model = load_reward_model(base, section.quantization, dtype)
    refuse_pad_as_stop(tokenizer, base)
    refuse_unknown_modules(model, section.lora.target_modules)
    return TrainingRun(name, section, base, find_common_hardware(), threads, dtype, precision, tokenizer, model, engine)


def load_reward_model(directory: Path, quantization: Quantization, dtype: torch.dtype) -> Any:
    """The model in `directory` with one output in place of its vocabulary; the new head's weights are zeros.

    Raises UserError for an architecture that has no such form, or weights that are missing besides the head's.
    """
    import torch
    import transformers
    from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

    quiet_libraries()
    options: dict[str, Any] = {"dtype": dtype, "num_labels": 1, "output_loading_info": True, **LOCAL}
    if quantization is Quantization.nf4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    elif quantization is Quantization.int8:
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    if device() == "cuda":
        options["device_map"] = {"": torch.cuda.current_device()}
    with no_code_of_its_own(directory):
        verbosity = transformers.utils.logging.get_verbosity()
        transformers.utils.logging.set_verbosity_error()  # it warns of the new head; what is missing is looked at below
        try:
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(directory, **options)
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
            raise UserError(
                f"{directory}: transformers has no form of this architecture that scores a text; needed one for a "
                "reward model. Set reward.enabled=false and rl.reward=key_facts"
            ) from None
        finally:
            transformers.utils.logging.set_verbosity(verbosity)
    model, found = loaded
    missing = sorted(map(str, found["missing_keys"]))
    if missing != [f"{HEAD}.weight"]:
        raise UserError(
            f"{directory}: as a model that scores answers it lacks {missing}, needed all but {HEAD}.weight. "
            "Set reward.enabled=false and rl.reward=key_facts"
        )
    setattr(model, HEAD, new_head(getattr(model, HEAD)))
    keep_4bit_weights_unpacked(model)
    return model


def new_head(head: Linear) -> Linear:
    """A head of zeros in place of `head`, which computes in float32 under autocast too.

    In bfloat16 rewards have three digits, and so has the loss, which is of their differences: 0.6914 in place of ln 2.
    """
    import torch

    class Float32Head(torch.nn.Linear):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            with torch.autocast(hidden.device.type, enabled=False):
                return super().forward(hidden.float())

    made = Float32Head(head.in_features, 1, bias=False, device=head.weight.device, dtype=torch.float32)
    torch.nn.init.zeros_(made.weight)
    return made


def refuse_pad_as_stop(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Raise UserError where padding is a stop token: the score would be read before an answer's end, not at it."""
    from transformers import GenerationConfig

    stops = stop_ids(GenerationConfig.from_pretrained(directory, local_files_only=True)) | {tokenizer.eos_token_id}
    if tokenizer.pad_token_id in stops or tokenizer.pad_token_id is None:
        raise UserError(
            f"{directory}: found {tokenizer.pad_token!r} as padding, which also ends answers; needed another token: "
            "the last token that isn't padding is the one that is scored. Set prepare_base.pad_token"
        )


def plan_of(tuning: TrainingRun, lengths: list[int], sequences: int, fused: bool = False) -> Plan:
    """How a step of a trainer that computes by itself is taken: as many rows a pass as fit; `fused` with trl's head."""
    own = "the trainer's own arithmetic"
    never = {"torch_compile": Choice.never, "cuda_graphs": Choice.never, "dequantize_once": Choice.never}
    ruled_out = {"attention": own, "padding_free": own, "head=supervised": own}
    if not fused:
        ruled_out["head=fused"] = own
    section = replace(tuning.section, **never)
    plan = make_plan(
        tuning.name, section, tuning.model, lengths, tuning.hardware, sequences=sequences, ruled_out=ruled_out
    )
    print(plan.block(tuning.name), flush=True)
    return plan


def refuse_wrong_start(figures: dict[str, float]) -> dict[str, float]:
    """Check the pass before training: each reward is 0, so the loss -log sigmoid(0) is ln 2. Returns both as metrics.

    Raises UserError otherwise: the head then isn't the new one of zeros, or something adds to the scores.
    """
    loss, low, high = figures["loss"], figures["min_reward"], figures["max_reward"]
    if not (abs(loss - math.log(2)) <= START_LIMIT and max(abs(low), abs(high)) <= START_LIMIT):  # NaN is refused too
        raise UserError(
            f"before the first step the loss is {loss:.6f} and rewards are {low:.4f} to {high:.4f}; needed ln 2 "
            f"({math.log(2):.6f}) and 0, since the head starts at zeros. Leave the head's start to reward"
        )
    return {"step0_loss": round(loss, 6)}


def refuse_frozen_head(model: Module) -> None:
    """Raise UserError unless the head is trained, and so saved: with another task_type peft leaves it out of both."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not any(f".{HEAD}." in f".{name}" for name in trained):
        raise UserError(
            f"the reward model's head is frozen: of {len(trained)} trained tensors none is its {HEAD}; needed the head "
            "among them. Give peft task_type=SEQ_CLS"
        )


def scores(model: PreTrainedModel | PeftModel, rows: list[list[int]], pad: int, dtype: torch.dtype) -> list[float]:
    """The reward of each of `rows` (token ids of a prompt and its answer, stop token included), in their order.

    They are padded on the right with `pad` and computed in `dtype`.
    """
    import torch

    found: dict[int, float] = {}
    training = model.training
    model.eval()
    context = nullcontext() if dtype is torch.float32 else torch.autocast(device(), dtype)
    try:
        for batch in batches_by_length([len(row) for row in rows], BATCH_TOKENS):
            width = max(len(rows[index]) for index in batch)
            ids = torch.tensor([rows[index] + [pad] * (width - len(rows[index])) for index in batch])
            present = torch.tensor([[1] * len(rows[i]) + [0] * (width - len(rows[i])) for i in batch])
            with torch.no_grad(), context:
                output = model(input_ids=ids.to(model.device), attention_mask=present.to(model.device), use_cache=False)
            found |= dict(zip(batch, output.logits[:, 0].float().tolist(), strict=True))
    finally:
        model.train(training)
    return [found[index] for index in range(len(rows))]


def load_trained(directory: Path, base: Path, quantization: Quantization, dtype: torch.dtype) -> Any:
    """The reward model whose adapter and head are in `directory`, on `base` quantised as in training."""
    from peft import PeftModel

    return PeftModel.from_pretrained(load_reward_model(base, quantization, dtype), directory).eval()


def refuse_other_scores(tuning: TrainingRun, model: PeftModel, rows: list[list[int]], wanted: list[float]) -> float:
    """The largest change of the scores of `rows` from `wanted` once `model` is saved and loaded again.

    Raises UserError where that is more than rounding: a head that wasn't saved would silently give other rewards.
    """
    with TemporaryDirectory() as scratch:
        save_adapter(model, Path(scratch))
        again = load_trained(Path(scratch), tuning.base, tuning.section.quantization, tuning.dtype)
    found = scores(again, rows, tuning.tokenizer.pad_token_id, tuning.dtype)
    largest = max(abs(one - other) for one, other in zip(found, wanted, strict=True))
    if not largest <= RELOAD_LIMIT * max(1.0, *map(abs, wanted)):
        raise UserError(
            f"saved and loaded again, the reward model's scores differ by up to {largest:.4f}; needed the same ones. "
            "Its adapter or its head isn't what was trained"
        )
    return largest


def load_scorer(directory: Path, base: Path) -> tuple[Any, torch.dtype]:
    """The reward model in `directory` and the dtype that it computes in.

    Raises UserError where it is off, damaged, or was trained on other weights than those in `base`.
    """
    lineage = read_lineage(directory)
    if "arguments" not in lineage:
        raise UserError(
            f"{directory}: found no reward model: its stage is off; needed one for rl.reward. Set reward.enabled=true, "
            "or rl.reward=key_facts"
        )
    refuse_foreign_base(directory, base)
    dtype = resolve_dtype(Dtype(lineage["arguments"]["dtype"]))
    return load_trained(directory, base, Quantization(lineage["arguments"]["quantization"]), dtype), dtype
