"""Adding an adapter to the 16-bit weights it was trained on."""

from __future__ import annotations

import time
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import (
    arguments_of,
    file_sha256,
    read_lineage,
    refuse_foreign_base,
    weights_sha256,
    write_lineage,
)
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import read_jsonl
from stages.lib.hardware import Hardware, describe, find_hardware, resolve_dtype
from stages.lib.merging.merge_check import compare, refuse_a_ruined_merge
from stages.lib.models.chat import Messages
from stages.lib.models.loading import (
    copy_tokenizer,
    load_16bit,
    load_quantized,
    load_strictly,
    load_tokenizer,
    quiet_libraries,
)
from stages.lib.schema.choices import Dtype, MergeBase, Quantization
from stages.lib.schema.merging import Merge

if TYPE_CHECKING:
    import torch

PROBE_TOKENS = 512


def merge_adapter(
    name: str, section: Merge, base: Path, adapter: Path, target: Path, probes: list[Messages]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Write `target`: `base` with `adapter` added, as a 16-bit model directory of its own.

    Into the original weights by default; with `section.base` dequantized into the weights as training saw them, which
    keeps every answer but must not be quantised again. Never into weights that are still quantised: the sum would
    round back to their grid and the tuning be lost. `probes` are conversations that training saw: merged and unmerged
    model must say the same about them. Returns facts for the run record and the figures of that comparison. Raises
    UserError unless the adapter was trained on exactly `base` and the merged model is what was trained.
    """
    import torch

    quiet_libraries()  # before peft imports bitsandbytes
    from peft import PeftModel

    refuse_foreign_base(adapter, base)
    lineage = read_lineage(adapter)
    dtype = getattr(torch, section.dtype.value)
    tokenizer = load_tokenizer(base)
    began = time.monotonic()
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
        merged = load_strictly(out, dtype_to_compare_in(dtype, find_hardware()))
        figures = compare(load_unmerged(base, adapter, lineage), merged, tokenizer, probes, PROBE_TOKENS)
        refuse_a_ruined_merge(name, figures, section.max_kl)
    return {**describe(), "compute_seconds": round(time.monotonic() - began, 1)}, figures


def dtype_to_compare_in(dtype: torch.dtype, hardware: Hardware) -> torch.dtype:
    """What a merged model of `dtype` computes in: float32 where the hardware can't compute in it.

    torch multiplies 16-bit numbers one by one on a CPU without such instructions: 0.5 billion operations a second of a
    core instead of 60. GPUs before capability 8.0 (a T4) have float16 alone.
    """
    import torch

    able = hardware.bfloat16 or (hardware.device == "cuda" and dtype is torch.float16)
    return dtype if able else torch.float32


def load_unmerged(base: Path, adapter: Path, lineage: dict[str, Any]) -> Any:
    """The model as training left it: `base` quantised as then, with the adapter beside its weights."""
    import torch
    from peft import PeftModel

    if lineage["kind"] == "full":
        return load_16bit(adapter, torch.float32)
    dtype = resolve_dtype(Dtype(lineage["arguments"]["dtype"]))
    return PeftModel.from_pretrained(load_as_quantized(base, lineage, dtype), adapter).eval()


def probe_conversations(files: list[Path], count: int) -> list[Messages]:
    """The first conversations of each file in turn, `count` in all if there are so many; of a pair, the chosen one.

    Raises UserError if there is none.
    """
    by_file = [[conversation(record) for record in islice(read_jsonl(path), count)] for path in files if path.is_file()]
    in_turn = (messages for row in zip_longest(*by_file) for messages in row if messages is not None)
    probes = list(islice(in_turn, count))
    if not probes:
        raise UserError(
            f"{', '.join(map(str, files))}: found no conversation to compare the merged model on; needed one"
        )
    return probes


def conversation(record: dict[str, Any]) -> Messages:
    """The messages of a prepared conversation, or of a preference pair with its chosen answer."""
    return record.get("messages") or [*record["prompt"], {"role": "assistant", "content": record["chosen"]}]


def load_as_trained(base: Path, adapter_lineage: dict[str, Any], dtype: torch.dtype) -> Any:
    """The weights that an adapter was trained on: `base` quantised as then, and dequantised to `dtype`."""
    model = load_as_quantized(base, adapter_lineage, dtype)
    return model.dequantize(dtype=dtype) if getattr(model, "quantization_method", None) else model


def load_as_quantized(base: Path, adapter_lineage: dict[str, Any], dtype: torch.dtype) -> Any:
    """`base` quantised as the adapter was trained on it."""
    return load_quantized(base, Quantization(adapter_lineage["arguments"]["quantization"]), dtype)
