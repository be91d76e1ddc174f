"""Layers taken out of a merged model: those that change their input least. Off unless prune.enabled is true.

Reads   models/sft-merged or models/dpo-merged, by prune.model; as calibration data/prepared/ultrachat/train.jsonl and
        data/prepared/pdf_qa/train.jsonl
Writes  models/pruned: 16-bit safetensors, tokenizer, lineage.json (which alone says "off" where it is off);
        metrics/prune.json: the influence of each layer, and which are taken out
Run     python -m stages.prune prune.enabled=true prune.layers=2
"""

import time
from pathlib import Path
from typing import Any

from stages.lib.every_stage.entry import run
from stages.lib.every_stage.lineage import (
    OFF,
    arguments_of,
    file_sha256,
    read_lineage,
    refuse_changed_weights,
    weights_sha256,
    write_lineage,
)
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_json
from stages.lib.hardware import describe, find_hardware
from stages.lib.merging.merge_adapter import PROBE_TOKENS, dtype_to_compare_in, probe_conversations
from stages.lib.models.chat import encode
from stages.lib.models.loading import copy_tokenizer, load_16bit, load_tokenizer
from stages.lib.pruning.block_influence import block_influence, least_influential
from stages.lib.pruning.shallower import logits_with_skipped, refuse_another_model, refuse_too_few, take_out
from stages.lib.schema.choices import Pruned
from stages.lib.schema.pruning import Prune

SFT = Path("models/sft-merged")
DPO = Path("models/dpo-merged")
ULTRACHAT = Path("data/prepared/ultrachat")
PDF_QA = Path("data/prepared/pdf_qa")
OUT = Path("models/pruned")
METRICS = Path("metrics/prune.json")


def prune(section: Prune, root: Path) -> dict[str, Any]:
    if not section.enabled:
        with published(root / OUT) as out:
            out.mkdir()
            write_lineage(out, OFF)
        with published(root / METRICS) as path:
            write_json(path, {})
        return {"enabled": False}
    whole = DPO if section.model is Pruned.dpo else SFT
    refuse_changed_weights(whole, kind="merged")
    began = time.monotonic()
    files = [ULTRACHAT / "train.jsonl", PDF_QA / "train.jsonl"]
    tokenizer = load_tokenizer(whole)
    chats = probe_conversations(files, section.rows)
    rows = [encode(tokenizer, messages).input_ids[:PROBE_TOKENS] for messages in chats]
    model = load_16bit(whole, "auto")
    refuse_too_few(model, section.layers)
    # Measured in what this machine computes in; saved in what the whole model is stored in.
    measured = load_16bit(whole, dtype_to_compare_in(model.dtype, find_hardware()))
    influence = block_influence(measured, rows)
    taken = least_influential(influence, section.layers)
    wanted = logits_with_skipped(measured, rows[0], taken)
    with published(root / OUT) as out:
        out.mkdir()
        take_out(model, taken)
        model.save_pretrained(out)
        copy_tokenizer(whole, out)
        write_lineage(
            out,
            {
                "kind": "pruned",
                "base": read_lineage(whole),
                "whole_weights_sha256": weights_sha256(whole),
                "layers_taken_out": taken,
                "arguments": arguments_of(section),
                "data": {f"{path.parent.name}/{path.name}": file_sha256(path) for path in files if path.is_file()},
                "weights_sha256": weights_sha256(out),
                "chat_template_sha256": file_sha256(out / "chat_template.jinja"),
            },
        )
        refuse_another_model(out, wanted, rows[0])
    with published(root / METRICS) as path:
        told = {str(number): round(value, 6) for number, value in enumerate(influence)}
        write_json(path, {"influence": told, "taken_out": taken, "layers": len(influence), "rows": len(rows)})
    return {**describe(), "layers_taken_out": taken, "compute_seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    run(prune)
