"""The DPO adapter merged into the merged SFT model: base, then SFT, then DPO.

Reads   models/sft-merged, models/dpo; as probes data/prepared/preferences/train.jsonl
Writes  models/dpo-merged: 16-bit safetensors, tokenizer, lineage.json; metrics/merge_dpo.json: how much that changed
Run     python -m stages.merge_dpo
"""

from pathlib import Path
from typing import Any

from stages.lib.every_stage.entry import run
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_json
from stages.lib.merging.merge_adapter import merge_adapter, probe_conversations
from stages.lib.schema.merging import MergeDpo

BASE = Path("models/sft-merged")
ADAPTER = Path("models/dpo")
PREFERENCES = Path("data/prepared/preferences")
OUT = Path("models/dpo-merged")
METRICS = Path("metrics/merge_dpo.json")


def merge_dpo(section: MergeDpo, root: Path) -> dict[str, Any]:
    probes = probe_conversations([PREFERENCES / "train.jsonl"], section.probes)
    facts, figures = merge_adapter("merge_dpo", section, BASE, ADAPTER, root / OUT, probes)
    with published(root / METRICS) as path:
        write_json(path, figures)
    return facts


if __name__ == "__main__":
    run(merge_dpo)
