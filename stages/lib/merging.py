"""Adding an adapter to the 16-bit weights it was trained on."""

from pathlib import Path
from typing import Any

from stages.lib.hardware import describe
from stages.lib.lineage import (
    arguments_of,
    file_sha256,
    read_lineage,
    refuse_foreign_base,
    weights_sha256,
    write_lineage,
)
from stages.lib.models import load_16bit, load_for_training, quiet_libraries
from stages.lib.publish import published
from stages.lib.schema import Merge, MergeBase, Quantization
from stages.lib.training import copy_tokenizer


def merge_adapter(section: Merge, base: Path, adapter: Path, target: Path) -> dict[str, Any]:
    """Write `target`: `base` with `adapter` added, as a 16-bit model directory of its own.

    Into the original weights by default; with `section.base` dequantized into the weights as training saw them, which
    keeps every answer but must not be quantised again. Never into weights that are still quantised: the sum would
    round back to their grid and the tuning be lost. Raises UserError unless the adapter was trained on exactly `base`.
    """
    import torch

    quiet_libraries()  # before peft imports bitsandbytes
    from peft import PeftModel

    refuse_foreign_base(adapter, base)
    lineage = read_lineage(adapter)
    dtype = getattr(torch, section.dtype.value)
    if lineage["kind"] == "full":
        merged = load_16bit(adapter, dtype)
    else:
        model = (
            load_as_trained(base, lineage, dtype) if section.base is MergeBase.dequantized else load_16bit(base, dtype)
        )
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    with published(target) as out:
        out.mkdir()
        merged.save_pretrained(out)
        copy_tokenizer(base, out)
        write_lineage(
            out,
            {
                "kind": "merged",
                "base": read_lineage(base),
                "adapter": lineage,
                "adapter_sha256": {path.name: file_sha256(path) for path in sorted(adapter.glob("*.safetensors"))},
                "arguments": arguments_of(section),
                "weights_sha256": weights_sha256(out),
                "chat_template_sha256": file_sha256(out / "chat_template.jinja"),
            },
        )
    return describe()


def load_as_trained(base: Path, adapter_lineage: dict[str, Any], dtype: Any) -> Any:
    """The weights that an adapter was trained on: `base` quantised as then, and dequantised to `dtype`."""
    quantization = Quantization[adapter_lineage["arguments"]["quantization"]]
    model = load_for_training(base, quantization, dtype)
    return model if quantization is Quantization.none else model.dequantize(dtype=dtype)
