"""How much each layer of a model changes what passes through it.

Block influence (Men et al. 2024, arXiv 2403.03853): 1 - the cosine of a layer's input and output, the mean over all
tokens of the calibration rows. A layer of influence 0 gives what it gets, and the model is the same without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.lib.models.shape import layers_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel


def block_influence(causal_lm: PreTrainedModel, rows: list[list[int]]) -> list[float]:
    """The influence of each layer of `causal_lm`, in order, on `rows` of token ids: 0 to 2.

    Inputs and outputs are seen by hooks: of what `output_hidden_states` gives, the last is after the final norm.
    """
    import torch

    layers = layers_of(causal_lm)
    sums = torch.zeros(len(layers), dtype=torch.float64)

    def watch(number: int) -> Any:
        def hook(layer: Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor], output: object) -> None:
            before, after = entering(arguments, named).double(), leaving(output).double()
            sums[number] += (1 - torch.cosine_similarity(before, after, dim=-1)).sum().cpu()

        return hook

    handles = [layer.register_forward_hook(watch(number), with_kwargs=True) for number, layer in enumerate(layers)]
    try:
        with torch.inference_mode():
            for row in rows:
                causal_lm(input_ids=torch.tensor([row], device=causal_lm.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [float(each) for each in sums / sum(map(len, rows))]


def least_influential(influence: list[float], count: int) -> list[int]:
    """The numbers of the `count` layers of least influence, in order; of equal ones the later."""
    return sorted(sorted(range(len(influence)), key=lambda number: (influence[number], -number))[:count])


def entering(arguments: tuple[Tensor, ...], named: dict[str, Tensor]) -> Tensor:
    """The hidden states (batch, length, width) that a layer is called with."""
    return arguments[0] if arguments else named["hidden_states"]


def leaving(output: object) -> Tensor:
    """The hidden states (batch, length, width) that a layer returns, alone or first of several things."""
    found: Any = output
    states: Tensor = found[0] if isinstance(found, tuple) else found
    return states
