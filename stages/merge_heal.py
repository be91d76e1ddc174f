"""The adapter of heal merged into the pruned model, where prune.enabled is true.

Reads   models/pruned, models/healed; as probes data/prepared/ultrachat/train.jsonl and data/prepared/pdf_qa/train.jsonl
Writes  models/healed-merged: 16-bit safetensors, tokenizer, lineage.json (which alone says "off" where it is off);
        metrics/merge_heal.json: how much the merge changed
Run     python -m stages.merge_heal
"""

from pathlib import Path
from typing import Any

from stages.lib.every_stage.entry import run
from stages.lib.every_stage.lineage import OFF, read_lineage, write_lineage
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_json
from stages.lib.merging.merge_adapter import merge_adapter, probe_conversations
from stages.lib.schema.merging import MergeHeal

PRUNED = Path("models/pruned")
ADAPTER = Path("models/healed")
ULTRACHAT = Path("data/prepared/ultrachat")
PDF_QA = Path("data/prepared/pdf_qa")
OUT = Path("models/healed-merged")
METRICS = Path("metrics/merge_heal.json")


def merge_heal(section: MergeHeal, root: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"enabled": False}
    figures: dict[str, float] = {}
    if read_lineage(ADAPTER) == OFF:
        with published(root / OUT) as out:
            out.mkdir()
            write_lineage(out, OFF)
    else:
        probes = probe_conversations([ULTRACHAT / "train.jsonl", PDF_QA / "train.jsonl"], section.probes)
        facts, figures = merge_adapter("merge_heal", section, PRUNED, ADAPTER, root / OUT, probes)
    with published(root / METRICS) as path:
        write_json(path, figures)
    return facts


if __name__ == "__main__":
    run(merge_heal)
