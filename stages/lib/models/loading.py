"""Loading models from model directories, the same way wherever it is done."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.errors import UserError
from stages.lib.hardware import device
from stages.lib.schema.choices import Method, Quantization
from stages.lib.schema.training import Training

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOCAL: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
"""How every model is loaded. Without the last, transformers asks on a terminal whether to run a model's own code."""


@contextmanager
def no_code_of_its_own(directory: Path) -> Iterator[None]:
    """Turn transformers' refusal to run the code that a model directory brings into a UserError."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise UserError(
            f"{directory}: the model brings code of its own (auto_map in its configuration), which is never run; "
            "needed an architecture that transformers has itself"
        ) from None


def quiet_libraries() -> None:
    """Silence what is known and harmless, so that what is printed is worth reading.

    bitsandbytes looks for a CPU kernel from the hub when it is imported; trl 1.16 uses a name that transformers 5.23
    is about to drop; peft says that it sees a Conv1D for one; loading weights needs no progress bar of its own.
    """
    import transformers

    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated")
    warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False but")
    transformers.utils.logging.disable_progress_bar()


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer with the chat template that is in `directory`."""
    from transformers import AutoTokenizer

    with no_code_of_its_own(directory):
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def copy_tokenizer(base: Path, out: Path) -> None:
    """Copy the tokenizer and chat template of `base`: what trains, merges and talks reads the same files.

    The terms of a model that asks for them to be passed on go with it.
    """
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "chat_template.jinja",
    ):
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)
    if (base / "license").is_dir():
        shutil.copytree(base / "license", out / "license")


def load_16bit(directory: Path, dtype: torch.dtype | str) -> Any:
    """A model for inference or merging, on the GPU where there is one."""
    from transformers import AutoModelForCausalLM

    quiet_libraries()
    with no_code_of_its_own(directory):
        model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, **LOCAL)
    return model.to(device()).eval()


def load_strictly(directory: Path, dtype: torch.dtype) -> Any:
    """A model for inference from a directory that must hold every weight and nothing else.

    Raises UserError naming what is missing, left over or of another shape: transformers would only warn, and give
    missing weights random values.
    """
    from transformers import AutoModelForCausalLM

    quiet_libraries()
    with no_code_of_its_own(directory):
        loaded: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, output_loading_info=True, **LOCAL)
    model, found = loaded
    problems = {key: sorted(map(str, names)) for key, names in found.items() if names}
    if problems:
        raise UserError(f"{directory}: the weights don't fit config.json: {problems}. Rebuild it with `dvc repro`")
    return model.to(device()).eval()


def load_for_training(directory: Path, section: Training, dtype: torch.dtype, sharded: bool = False) -> Any:
    """A model to train as `section` asks: frozen weights quantised and computing in `dtype`.

    Weights that are themselves trained (method=full) are kept in float32: in bfloat16 small updates round to nothing.
    `sharded` says that they will be sharded over several processes (FSDP).
    Raises UserError for lora.target_modules that the model doesn't have.
    """
    import torch

    if section.method is Method.full:
        return load_quantized(directory, Quantization.none, torch.float32, sharded)
    model = load_quantized(directory, section.quantization, dtype, sharded)
    refuse_unknown_modules(model, section.lora.target_modules)
    return model


def refuse_unknown_modules(model: PreTrainedModel, names: list[str]) -> None:
    """Raise UserError for names of layers that `model` doesn't have: peft says nothing if one of several fits."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    found = [name for name, module in model.named_modules() if isinstance(module, Linear | Conv1D)]
    unknown = [name for name in sorted(names) if not any(f".{layer}".endswith(f".{name}") for layer in found)]
    if unknown:
        raise UserError(
            f"lora.target_modules: {', '.join(unknown)}: the model has no such layers; needed some of "
            f"{', '.join(sorted({layer.rpartition('.')[2] for layer in found}))}"
        )


def load_quantized(directory: Path, quantization: Quantization, dtype: torch.dtype, sharded: bool = False) -> Any:
    """A model whose weights are quantised as asked, computing in `dtype`, on this process's GPU where it has one.

    With `sharded` it is ready for FSDP, which shards tensors of one floating type and takes them from there: 16-bit
    weights are left in the CPU's memory, of one process alone; 4-bit ones are kept in tensors of `dtype`.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quiet_libraries()
    options: dict[str, Any] = {"dtype": dtype, **LOCAL}
    if quantization is Quantization.nf4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=dtype if sharded else torch.uint8,
        )
    elif quantization is Quantization.int8:
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    if device() == "cuda" and not (sharded and quantization is Quantization.none):
        options["device_map"] = {"": torch.cuda.current_device()}
    with no_code_of_its_own(directory):
        model = AutoModelForCausalLM.from_pretrained(directory, **options)
    keep_4bit_weights_unpacked(model)
    return model


def keep_4bit_weights_unpacked(model: PreTrainedModel) -> None:
    """Stop bitsandbytes from repacking 4-bit weights on AVX512-bf16 CPUs.

    Any forward pass without gradients would do so, in place; afterwards no gradient passes through those layers and
    dequantising them returns garbage, without an error (bitsandbytes 0.50, backends/cpu).
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
