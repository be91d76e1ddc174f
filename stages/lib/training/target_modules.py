"""Which layers an adapter is added to: `lora.target_modules: all-linear`, resolved once, by prepare-base.

The names that it stands for are in the base's lineage.json, which every merge carries on: all training stages adapt
the same layers, whatever the weights are quantised to.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import read_lineage
from stages.lib.models.shape import layers_of
from stages.lib.schema.training import ALL_LINEAR, Lora

if TYPE_CHECKING:
    from torch.nn import Linear, Module
    from transformers import PreTrainedModel
    from transformers.pytorch_utils import Conv1D

    from stages.lib.schema.training import Training

STATE_SPACE = {"A_log", "D"}
"""Parameters of a Mamba layer."""

READ_BY_KERNELS = {"out_proj", "dt_proj"}
"""Its linear layers whose weights CUDA kernels read past the layer: what an adapter adds there is not computed. peft
refuses them for the model types that it knows."""


def all_linear(model: PreTrainedModel) -> list[str]:
    """The names of every linear layer (torch's Linear, transformers' Conv1D) of the language model in `model`.

    Not among them: the head, what reads images or sound, and what kernels read by themselves. Sorted last parts of
    names, as peft matches them; whole names where a last part occurs outside too. Experts that are one tensor a layer
    (mixtures of experts) are no linear layers: see `fused_experts`. Raises UserError where there is none.
    """
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    language = {id(module) for module in model.get_decoder().modules()}
    modules = dict(model.named_modules())
    wanted: list[str] = []
    others: list[str] = []
    for name, module in modules.items():
        if not isinstance(module, Linear | Conv1D) or not is_a_projection(module):
            continue
        parent, _, last = name.rpartition(".")
        by_kernel = last in READ_BY_KERNELS and names_of(modules[parent]) >= STATE_SPACE
        fits = id(module) in language and module is not model.get_output_embeddings() and not by_kernel
        (wanted if fits else others).append(name)
    if not wanted:
        raise UserError(f"{type(model).__name__}: found no linear layer to adapt; needed a model that has some")
    outside = {last_part(name) for name in others}
    return sorted({name if last_part(name) in outside else last_part(name) for name in wanted})


def names_of(module: Module) -> set[str]:
    """The names of a module's own parameters, those of modules below it left out."""
    return {name for name, _ in module.named_parameters(recurse=False)}


def is_a_projection(module: Linear | Conv1D) -> bool:
    """Whether a linear layer gives the product alone: routers of experts, of a class below Linear, give more."""
    import torch

    if type(module) is torch.nn.Linear or not isinstance(module, torch.nn.Linear):
        return True
    with torch.no_grad():
        given = module(torch.zeros(1, module.in_features, dtype=module.weight.dtype, device=module.weight.device))
    return isinstance(given, torch.Tensor)


def fused_experts(model: PreTrainedModel) -> int:
    """How many tensors hold the weights of several experts each: adapters leave them as they are."""
    return sum(parameter.dim() == 3 for name, parameter in model.named_parameters() if "expert" in name)


def adapted_by(lora: Lora, model: PreTrainedModel) -> dict[str, Any]:
    """peft's options that say which layers of `model` get an adapter: `lora.target_modules` of its last `num_layers`.

    Nothing is trained below those, so that a backward pass ends there, and their activations alone are kept for it.
    All layers are tuned where the model has no more than that.
    """
    names = sorted(lora.target_modules)
    layers = layers_of(model)
    if not 0 < lora.num_layers < len(layers):
        return {"target_modules": names}
    first = len(layers) - lora.num_layers
    path = next(name for name, module in model.named_modules() if module is layers)
    below = tuple(f"{path}.{index}." for index in range(first))  # peft takes whole names whatever their layer
    return {
        "target_modules": [name for name in names if not name.startswith(below)],
        "layers_to_transform": [*range(first, len(layers))],
        "layers_pattern": last_part(path),
    }


def last_part(name: str) -> str:
    """A module's own name: what follows the last dot."""
    return name.rpartition(".")[2]


def with_target_modules(name: str, section: Training, base: Path) -> Any:
    """A training section whose lora.target_modules are the names that `base`'s lineage resolved all-linear to.

    `name` is the section's. A list of names stays as it is. Raises UserError for a base that names none.
    """
    if section.lora.target_modules != ALL_LINEAR:
        return section
    lineage = read_lineage(base)
    while "base" in lineage:  # a merged model's lineage holds its base's
        lineage = lineage["base"]
    if "target_modules" not in lineage:
        raise UserError(
            f"{base}: its lineage.json doesn't say what {name}.lora.target_modules=all-linear stands for. Rebuild it "
            f"with `dvc repro`, or name the layers in {name}.lora.target_modules"
        )
    return replace(section, lora=replace(section.lora, target_modules=lineage["target_modules"]))
