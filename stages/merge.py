"""The SFT adapter merged into the base model.

Reads   models/base, models/sft; as probes data/prepared/ultrachat/train.jsonl, data/prepared/pdf_qa/train.jsonl
Writes  models/sft-merged: 16-bit safetensors, tokenizer, lineage.json; metrics/merge.json: how much the merge changed
Run     python -m stages.merge
"""

from pathlib import Path
from typing import Any

from stages.lib.every_stage.entry import run
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_json
from stages.lib.merging.merge_adapter import merge_adapter, probe_conversations
from stages.lib.schema.merging import Merge

BASE = Path("models/base")
ADAPTER = Path("models/sft")
ULTRACHAT = Path("data/prepared/ultrachat")
PDF_QA = Path("data/prepared/pdf_qa")
OUT = Path("models/sft-merged")
METRICS = Path("metrics/merge.json")


def merge(section: Merge, root: Path) -> dict[str, Any]:
    probes = probe_conversations([PDF_QA / "train.jsonl", ULTRACHAT / "train.jsonl"], section.probes)
    facts, figures = merge_adapter("merge", section, BASE, ADAPTER, root / OUT, probes)
    with published(root / METRICS) as path:
        write_json(path, figures)
    return facts


if __name__ == "__main__":
    run(merge)
