"""The SFT adapter merged into the base model.

Reads   models/base, models/sft
Writes  models/sft-merged: 16-bit safetensors, tokenizer, lineage.json
Run     python -m stages.merge
"""

from pathlib import Path
from typing import Any

from stages.lib.entry import run
from stages.lib.merging import merge_adapter
from stages.lib.schema import Merge

BASE = Path("models/base")
ADAPTER = Path("models/sft")
OUT = Path("models/sft-merged")


def merge(section: Merge, root: Path) -> dict[str, Any]:
    return merge_adapter(section, BASE, ADAPTER, root / OUT)


if __name__ == "__main__":
    run(merge)
