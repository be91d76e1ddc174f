"""The adapter of ORPO, CPO, SimPO or KTO merged into the model that it was trained on. Off as preference is.

Reads   models/base or models/sft-merged, whichever the adapter was trained on; models/preference; as probes
        data/prepared/preferences/train.jsonl
Writes  models/preference-merged: 16-bit safetensors, tokenizer, lineage.json (which alone says "off" where it is off);
        metrics/merge_preference.json: how much the merge changed
Run     python -m stages.merge_preference
"""

from pathlib import Path
from typing import Any

from stages.lib.every_stage.entry import run
from stages.lib.every_stage.lineage import OFF, read_lineage, write_lineage
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_json
from stages.lib.merging.merge_adapter import merge_adapter, probe_conversations
from stages.lib.schema.choices import StartFrom
from stages.lib.schema.merging import MergePreference

BASE = Path("models/base")
SFT = Path("models/sft-merged")
ADAPTER = Path("models/preference")
PREFERENCES = Path("data/prepared/preferences")
OUT = Path("models/preference-merged")
METRICS = Path("metrics/merge_preference.json")


def merge_preference(section: MergePreference, root: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"enabled": False}
    figures: dict[str, float] = {}
    lineage = read_lineage(ADAPTER)
    if lineage == OFF:
        with published(root / OUT) as out:
            out.mkdir()
            write_lineage(out, OFF)
    else:
        base = SFT if lineage["arguments"]["start"] == StartFrom.sft.value else BASE
        probes = probe_conversations([PREFERENCES / "train.jsonl"], section.probes)
        facts, figures = merge_adapter("merge_preference", section, base, ADAPTER, root / OUT, probes)
    with published(root / METRICS) as path:
        write_json(path, figures)
    return facts


if __name__ == "__main__":
    run(merge_preference)
