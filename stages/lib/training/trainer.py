"""What the training stages give trl's trainers, and take from them: arguments, precision, the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.hardware import device
from stages.lib.schema.choices import Method
from stages.lib.schema.training import INITS, Lora, Training
from stages.lib.training.plan import Plan
from stages.lib.training.target_modules import adapted_by
from stages.lib.training.trl_trainer import TrlTrainer

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import Tensor
    from torch.nn import Module

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER_BASE = "models/base"
"""What adapter_config.json names as its base: neutral, since an absolute path would change the adapter's hash."""


def trainer_arguments(name: str, section: Training, plan: Plan, dtype: torch.dtype, folder: Path) -> dict[str, Any]:
    """The arguments that trl.SFTConfig and trl.DPOConfig have in common, by their own names."""
    import torch

    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "optim": plan.optim,
        "learning_rate": section.learning_rate,
        "lr_scheduler_type": section.lr_scheduler_type.value,
        "warmup_steps": section.warmup_steps,
        "num_train_epochs": section.num_train_epochs,
        "max_steps": section.max_steps,
        "adam_beta2": section.adam_beta2,
        "weight_decay": section.weight_decay,
        "max_grad_norm": section.max_grad_norm,
        "logging_nan_inf_filter": False,  # it would log a broken loss as 0, and wait for the GPU to know
        "logging_steps": section.logging_steps,  # a loss is read from the GPU then alone: else it runs ahead
        "logging_first_step": plan.sharded,  # rehearse has it looked at
        "seed": section.seed,
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
        "use_cpu": device() == "cpu",
        "dataloader_pin_memory": device() == "cuda",
        "accelerator_config": {"non_blocking": device() == "cuda"},  # the next batch doesn't wait for this step
        "ddp_find_unused_parameters": False,  # an adapter's are all used; looking for others costs a pass
        "ddp_broadcast_buffers": False,  # a language model's never change
        "disable_tqdm": True,  # report_progress prints a line now and then
        "save_strategy": "no",  # checkpoints.py saves by time
        "save_total_limit": 2,
        "report_to": [tracker.value for tracker in section.report_to] or "none",
        "run_name": name,
        "project": "graft",  # trackio's
    }


def lora_config(section: Training, model: PreTrainedModel) -> Any:
    """The peft configuration of a new adapter of `model`; None where the weights themselves are trained."""
    from peft import LoraConfig

    if section.method is Method.full:
        return None
    return LoraConfig(
        r=section.lora.r,
        lora_alpha=section.lora.lora_alpha,
        lora_dropout=section.lora.lora_dropout,
        bias=section.lora.bias,  # type: ignore[arg-type]
        task_type="CAUSAL_LM",
        **variant_of(section.lora),
        **adapted_by(section.lora, model),
    )


def variant_of(lora: Lora) -> dict[str, Any]:
    """peft's options for the variant of LoRA that is asked for; none for plain LoRA, whose files stay as they were."""
    options: dict[str, Any] = {"use_dora": lora.use_dora, "use_rslora": lora.use_rslora}
    options = {name: True for name, on in options.items() if on}
    if lora.init_lora_weights != INITS[0]:
        options["init_lora_weights"] = lora.init_lora_weights
    return options


def use_loraplus(trainer: TrlTrainer, lora: Lora) -> None:
    """Give the trainer LoRA+'s optimizer: B's weights learn `lora.loraplus_lr_ratio` times as fast as A's.

    Source: Hayou et al. 2024, arXiv 2402.12354; the logged learning rate is A's.
    """
    from peft.optimizers import create_loraplus_optimizer

    built: Any = trainer
    optimizer, options = built.get_optimizer_cls_and_kwargs(built.args, built.model)
    options |= {"loraplus_weight_decay": built.args.weight_decay, "loraplus_lr_ratio": lora.loraplus_lr_ratio}
    built.optimizer = create_loraplus_optimizer(built.model, optimizer, **options)


def keep_adapter_in_float32(model: Module) -> None:
    """Undo trl's cast of the adapters of quantised models to bfloat16, where small updates would round to nothing."""
    import torch

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def keep_losses_in_float32(trainer: TrlTrainer, dtype: torch.dtype) -> None:
    """Undo accelerate's cast of what a sharded model (FSDP) returns, and of its gradients' sums, to a 16-bit `dtype`.

    Log-probabilities and losses would keep three digits, and DPO's margins are differences of them.
    """
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy

    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, output_dtype=None)
    trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = policy


def save_adapter(model: PeftModel, out: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Save a trained adapter so that equal adapters have equal bytes: sorted modules, no paths, no model card.

    `weights` are its tensors by name where the model itself has only a part of them.
    """
    configs: dict[str, Any] = model.peft_config
    for config in configs.values():
        config.base_model_name_or_path = ADAPTER_BASE
        config.target_modules = sorted(config.target_modules)
    model.save_pretrained(str(out), state_dict=weights)
    (out / "README.md").unlink(missing_ok=True)
