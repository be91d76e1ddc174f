"""The ORPO adapter merged into the base model, where orpo.enabled is true.

Reads   models/base, models/orpo; as probes data/prepared/preferences/train.jsonl
Writes  models/orpo-merged: 16-bit safetensors, tokenizer, lineage.json (which alone says "off" where ORPO is off);
        metrics/merge_orpo.json: how much the merge changed
Run     python -m stages.merge_orpo
"""

from pathlib import Path
from typing import Any

from stages.lib.every_stage.entry import run
from stages.lib.every_stage.lineage import OFF, read_lineage, write_lineage
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_json
from stages.lib.merging.merge_adapter import merge_adapter, probe_conversations
from stages.lib.schema.merging import MergeOrpo

BASE = Path("models/base")
ADAPTER = Path("models/orpo")
PREFERENCES = Path("data/prepared/preferences")
OUT = Path("models/orpo-merged")
METRICS = Path("metrics/merge_orpo.json")


def merge_orpo(section: MergeOrpo, root: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"enabled": False}
    figures: dict[str, float] = {}
    if read_lineage(ADAPTER) == OFF:
        with published(root / OUT) as out:
            out.mkdir()
            write_lineage(out, OFF)
    else:
        probes = probe_conversations([PREFERENCES / "train.jsonl"], section.probes)
        facts, figures = merge_adapter("merge_orpo", section, BASE, ADAPTER, root / OUT, probes)
    with published(root / METRICS) as path:
        write_json(path, figures)
    return facts


if __name__ == "__main__":
    run(merge_orpo)
