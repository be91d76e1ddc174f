"""A model of few layers with everything particular to its family, to try things on that would take long on the whole.

The first layers are kept, as many as hold one of each kind: five with a window and one without in Gemma-3, three of
linear attention and one of softmax in Qwen3.5. Embeddings and head are the model's own.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from stages.lib.hardware import device
from stages.lib.models.loading import LOCAL, quiet_libraries
from stages.lib.models.shape import layers_of

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

FEWEST = 2


def load_shortened(directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model in `directory` with its first layers alone, in `dtype`, on the GPU where there is one.

    All layers are kept where the family's weights depend on how many there are.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    quiet_libraries()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would list the layers that are left out
    whole = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    options: dict[str, Any] = {"dtype": dtype, **LOCAL}
    for config in (shortened(whole), whole):
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                directory, config=config, output_loading_info=True, **options
            )
        except (RuntimeError, ValueError, IndexError):  # weights of another shape, or a configuration that can't be
            if config is whole:
                raise
            continue
        model, found = loaded
        if not found["missing_keys"]:
            break
    logging.set_verbosity(verbosity)
    return model.to(device()).eval()


def shortened(config: PreTrainedConfig) -> PreTrainedConfig:
    """`config` with as few layers as hold one of each kind; what it lists layer by layer is cut to them."""
    count = config.get_text_config().num_hidden_layers
    kept = kept_layers(config)
    short = deepcopy(config)
    text = short.get_text_config()
    for key, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == count:
            setattr(text, key, value[:kept])
    text.num_hidden_layers = kept
    return short


def kept_layers(config: PreTrainedConfig) -> int:
    """How many of the first layers hold one of each kind, by their parts and by what `config` lists layer by layer."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        layers = layers_of(AutoModelForCausalLM.from_config(config, trust_remote_code=False))
    text = config.get_text_config()
    lists = [value for value in vars(text).values() if isinstance(value, list) and len(value) == len(layers)]
    seen: list[Any] = []
    last = 0
    for number, layer in enumerate(layers):
        parts = [(name, type(part).__name__) for name, part in layer.named_modules()]
        sizes = [(name, tuple(parameter.shape)) for name, parameter in layer.named_parameters()]
        kind = (parts, sizes, [value[number] for value in lists])
        if kind not in seen:
            seen.append(kind)
            last = number
    return min(len(layers), max(FEWEST, last + 1))
