"""The DPO adapter merged into the merged SFT model: base, then SFT, then DPO.

Reads   models/sft-merged, models/dpo
Writes  models/dpo-merged: 16-bit safetensors, tokenizer, lineage.json
Run     python -m stages.merge_dpo
"""

from pathlib import Path
from typing import Any

from stages.lib.entry import run
from stages.lib.merging import merge_adapter
from stages.lib.schema import Merge

BASE = Path("models/sft-merged")
ADAPTER = Path("models/dpo")
OUT = Path("models/dpo-merged")


def merge_dpo(section: Merge, root: Path) -> dict[str, Any]:
    return merge_adapter(section, BASE, ADAPTER, root / OUT)


if __name__ == "__main__":
    run(merge_dpo)
