"""A model with fewer layers, which computes what the whole one computes with those layers skipped."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.errors import UserError
from stages.lib.models.loading import load_strictly
from stages.lib.models.shape import layers_of
from stages.lib.pruning.block_influence import entering

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedConfig, PreTrainedModel

SHARED = ("num_kv_shared_layers",)
"""Counts of layers that have no keys and values of their own: which ones depends on where they stand (Gemma 3n)."""


def refuse_too_few(causal_lm: PreTrainedModel, count: int) -> None:
    """Raise UserError where `count` layers can't be taken out of `causal_lm`."""
    layers = len(layers_of(causal_lm))
    if not count < layers:
        raise UserError(f"prune.layers: found {count}, needed less than the model's {layers} layers")
    config = causal_lm.config.get_text_config()
    shared = [name for name in SHARED if vars(config).get(name)]
    if count and shared:
        raise UserError(
            f"prune.layers: found {count}, and a model whose last layers take keys and values from others "
            f"({shared[0]}={vars(config)[shared[0]]}); needed layers with their own. Choose another model, or set "
            "prune.layers=0"
        )


def without_layers(config: PreTrainedConfig, out: list[int]) -> PreTrainedConfig:
    """`config` without the layers numbered `out`; what it lists layer by layer, such as layer_types, loses them too."""
    shallower = deepcopy(config)
    text = shallower.get_text_config()
    count = text.num_hidden_layers
    kept = [number for number in range(count) if number not in out]
    for key, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == count:
            setattr(text, key, [value[number] for number in kept])
    text.num_hidden_layers = len(kept)
    return shallower


def take_out(causal_lm: PreTrainedModel, out: list[int]) -> None:
    """Take the layers numbered `out` from `causal_lm`, in place, so that it is saved without them.

    It is for saving alone: each layer still has the number that it had (`layer_idx`), by which a cache is found.
    Loaded again, they are numbered anew.
    """
    if not out:
        return
    causal_lm.config = without_layers(causal_lm.config, out)
    layers = layers_of_whole(causal_lm, len(out))
    for number in reversed(out):
        del layers[number]


def layers_of_whole(causal_lm: PreTrainedModel, taken: int) -> Any:
    """The list of layers of a model whose configuration says already that `taken` fewer are left."""
    from torch.nn import ModuleList

    count = causal_lm.config.get_text_config().num_hidden_layers + taken
    lists = (module for module in causal_lm.get_decoder().modules() if isinstance(module, ModuleList))
    return next(each for each in lists if len(each) == count)


def logits_with_skipped(causal_lm: PreTrainedModel, row: list[int], skipped: list[int]) -> Tensor:
    """Logits (length, vocabulary) of a row of token ids by `causal_lm`, with these layers giving what they get."""
    import torch

    def skip(layer: Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor], output: object) -> Any:
        states = entering(arguments, named)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    layers = layers_of(causal_lm)
    handles = [layers[number].register_forward_hook(skip, with_kwargs=True) for number in skipped]
    try:
        with torch.inference_mode():
            ids = torch.tensor([row], device=causal_lm.device)
            logits: Tensor = causal_lm(input_ids=ids, use_cache=False).logits[0]
            return logits
    finally:
        for handle in handles:
            handle.remove()


def refuse_another_model(directory: Path, wanted: Tensor, row: list[int]) -> None:
    """Raise UserError unless the model in `directory`, loaded strictly, gives the logits `wanted` on `row`, all equal.

    They are the whole model's with the layers skipped (`logits_with_skipped`). Families that say of a layer by its
    number what it does, elsewhere than in lists of the configuration, compute another model with layers renumbered.
    """
    import torch

    what = "the model without these layers doesn't compute what the whole one computes with them skipped"
    help = "Its family decides by a layer's number what it does. Choose another model, or set prune.layers=0"
    try:
        found = logits_with_skipped(load_strictly(directory, wanted.dtype), row, [])
    except (UserError, RuntimeError, ValueError, IndexError) as error:
        raise UserError(f"prune: {what}: it can't be loaded: {error}. {help}") from error
    if not torch.equal(found, wanted):
        apart = float((found - wanted).abs().max())
        raise UserError(f"prune: {what}: found logits up to {apart:.2g} apart, needed equal ones. {help}")
