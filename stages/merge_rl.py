"""The RL adapter merged into the merged SFT model, where rl.enabled is true.

Reads   models/sft-merged, models/rl; as probes data/prepared/pdf_qa/train.jsonl
Writes  models/rl-merged: 16-bit safetensors, tokenizer, lineage.json (which alone says "off" where RL is off);
        metrics/merge_rl.json: how much the merge changed
Run     python -m stages.merge_rl
"""

from pathlib import Path
from typing import Any

from stages.lib.every_stage.entry import run
from stages.lib.every_stage.lineage import OFF, read_lineage, write_lineage
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_json
from stages.lib.merging.merge_adapter import merge_adapter, probe_conversations
from stages.lib.schema.merging import MergeRl

BASE = Path("models/sft-merged")
ADAPTER = Path("models/rl")
PDF_QA = Path("data/prepared/pdf_qa")
OUT = Path("models/rl-merged")
METRICS = Path("metrics/merge_rl.json")


def merge_rl(section: MergeRl, root: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"enabled": False}
    figures: dict[str, float] = {}
    if read_lineage(ADAPTER) == OFF:
        with published(root / OUT) as out:
            out.mkdir()
            write_lineage(out, OFF)
    else:
        probes = probe_conversations([PDF_QA / "train.jsonl"], section.probes)
        facts, figures = merge_adapter("merge_rl", section, BASE, ADAPTER, root / OUT, probes)
    with published(root / METRICS) as path:
        write_json(path, figures)
    return facts


if __name__ == "__main__":
    run(merge_rl)
