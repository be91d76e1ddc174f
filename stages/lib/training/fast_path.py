"""The same loss with less work: how the training stages carry out what plan.py decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.lib.models.shape import layers_of
from stages.lib.training.attention import attend_without_mask
from stages.lib.training.cuda_graphs import fill_up, replay_decoder
from stages.lib.training.decisions import Attention
from stages.lib.training.head import gather_head, project_by
from stages.lib.training.peft_adapter import adapters_off
from stages.lib.training.plan import Plan
from stages.lib.training.trl_trainer import TrlTrainer

if TYPE_CHECKING:
    import torch
    from torch.nn import Module
    from transformers import PreTrainedModel


def speed_up_model(model: PreTrainedModel, plan: Plan, dtype: torch.dtype) -> Any:
    """Prepare `model`, before a trainer is built on it, for the steps that `plan` decided; returns the model.

    `dtype` is what training computes in.
    """
    if plan.dequantize_once:
        # A 4-bit weight is dequantised for every forward and every backward pass and multiplied in 16 bit: doing that
        # once changes no bit of the result. It costs 2 bytes a parameter.
        model = model.dequantize(dtype=dtype)
    if plan.attention is not Attention.model:
        attend_without_mask(model, plan, dtype)
    return model


def speed_up_trainer(trainer: TrlTrainer, plan: Plan, dtype: torch.dtype) -> None:
    """Prepare the model of a trl trainer, its adapter included, for the steps that `plan` decided."""
    causal_lm = causal_lm_of(trainer.model)
    skip_adapter_casts(trainer.model)
    if plan.sharded:
        gather_head(causal_lm)
    else:  # FSDP puts other parameters into the place of those that this remembers
        spare_the_host(trainer)
    project_by(causal_lm, plan.head)
    if plan.torch_compile:
        for layer in layers_of(causal_lm):
            # One program for all layers, and another once lengths differ. It rounds to 16 bit wherever an uncompiled
            # layer does: without that, losses of a step were up to 0.024 apart, with it 0.001 (bench/training.py).
            layer.compile(options={"emulate_precision_casts": True})
    if plan.cuda_graphs:
        replay_decoder(trainer.model, causal_lm.get_decoder(), dtype)
        if plan.padding_free:
            collate = trainer.data_collator
            trainer.data_collator = lambda rows: fill_up(collate(rows))


def causal_lm_of(model: Module) -> Any:
    """The model itself, out of the wrapper that an adapter puts around it."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def skip_adapter_casts(model: Module) -> None:
    """Let autocast alone choose the precision of adapters.

    peft would cast each adapted layer's input to the adapter's float32 first, only for autocast to cast it back.
    """
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def spare_the_host(trainer: TrlTrainer) -> None:
    """Leave out walks over all modules that a trl trainer takes in every step; a fast GPU waits for each.

    With an adapter a model of 22 layers has some 1,500 modules. What is left out counts floating-point operations,
    which nobody reads, and sets a mode that is set; what needs the parameters gets those that are trained. DPO's
    reference has the adapter off: peft would describe and freeze each layer of it first, and thaw it afterwards.
    """
    from peft.tuners.lora import LoraLayer
    from transformers import TrainerCallback

    model = trainer.model
    adapted = [module for module in model.modules() if isinstance(module, LoraLayer)]

    class SpareInTheWrapper(TrainerCallback):
        def on_train_begin(self, *_: object, **__: object) -> None:
            trainer.model_wrapped.parameters = model.parameters  # what several processes (DDP) put around the model

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    set_mode = model.train
    rewritten: Any = trainer
    rewritten.floating_point_ops = lambda inputs: 0
    model.parameters = lambda recurse=True: iter(trained)  # clip_grad_norm_ and zero_grad ask for them
    for walked in (model, causal_lm_of(model)):  # looked through for compiled and for checkpointed ones
        modules = list(walked.modules())
        walked.modules = lambda *_, modules=modules, **__: iter(modules)
    model.disable_adapter = lambda: adapters_off(adapted)
    set_mode(True)  # all of it: a wrapper is born in training mode around a base that was loaded for inference
    model.train = lambda mode=True: model if model.training is mode else set_mode(mode)
    trainer.add_callback(SpareInTheWrapper())
