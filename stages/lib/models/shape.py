"""The sizes of a model, read off its modules: every family's configuration spells them in its own way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch.nn import Module, ModuleList
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Shape:
    """What memory and speed depend on, in elements. Of layers that differ, the largest is described."""

    layers: int
    hidden: int  # width between layers
    inner: int  # of the MLP; of a mixture of experts, of those that see a token
    key_value: int  # width of keys, and of values
    heads: int  # of queries; 0 where no layer attends
    vocabulary: int
    projections: tuple[tuple[str, int, int], ...]  # of all layers: name, width in, width out


def shape_of(causal_lm: PreTrainedModel) -> Shape:
    """The sizes of a model, whose weights may be quantised or on the meta device."""
    config, layers = causal_lm.config.get_text_config(), layers_of(causal_lm)
    embedding: Any = causal_lm.get_input_embeddings()
    vocabulary, hidden = embedding.weight.shape
    largest = max(layers, key=lambda layer: sum(ins + outs for _, ins, outs in projections_of(layer)))
    sizes = projections_of(largest)
    keys = [outs for name, _, outs in sizes if name == "k_proj"]
    of_layers = list(config.per_layer_config)
    return Shape(
        layers=len(layers),
        hidden=hidden,
        inner=max([experts_width(largest, of_layers[0]), *(ins for _, ins, _ in sizes)]),
        key_value=keys[0] if keys else hidden,
        heads=max(getattr(layer, "num_attention_heads", 0) for layer in of_layers),
        vocabulary=vocabulary,
        projections=tuple(size for layer in layers for size in projections_of(layer)),
    )


def shape_in(directory: Path) -> Shape:
    """The sizes of the model in a directory, without its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        return shape_of(AutoModelForCausalLM.from_config(config, trust_remote_code=False))


def layers_of(causal_lm: PreTrainedModel) -> ModuleList:
    """The layers that hidden states pass through, in order: `layers` in most families, `h` in GPT-2's.

    Raises UserError for a model whose layers are no list.
    """
    from torch.nn import ModuleList

    count = causal_lm.config.get_text_config().num_hidden_layers
    lists = (module for module in causal_lm.get_decoder().modules() if isinstance(module, ModuleList))
    found = next((each for each in lists if len(each) == count), None)
    if found is None:
        raise UserError(
            f"{type(causal_lm).__name__}: found no list of its {count} layers, needed one; choose another model"
        )
    return found


def projections_of(layer: Module) -> list[tuple[str, int, int]]:
    """Name, width in and width out of each linear layer below `layer`."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    found: list[tuple[str, int, int]] = []
    for name, module in layer.named_modules():
        if isinstance(module, Linear):  # quantised ones are, too
            found.append((name.rsplit(".", 1)[-1], module.in_features, module.out_features))
        elif isinstance(module, Conv1D):
            found.append((name.rsplit(".", 1)[-1], module.nx, module.nf))
    return found


def experts_width(layer: Module, config: PreTrainedConfig) -> int:
    """Inner width of the experts of a layer that see one token, together; 0 where there are none."""
    widths = [min(parameter.shape[1:]) for parameter in layer.parameters() if parameter.ndim == 3]
    return max(widths, default=0) * (getattr(config, "num_experts_per_tok", None) or 1)
