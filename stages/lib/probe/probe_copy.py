"""The copy of a base that the probe at the front of the chain works on, and its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.lib.every_stage.lineage import read_lineage, weights_sha256, write_lineage
from stages.lib.every_stage.records import write_jsonl
from stages.lib.models.loading import copy_tokenizer
from stages.lib.models.shape import layers_of
from stages.lib.training.shortened import load_shortened
from stages.lib.training.target_modules import all_linear

if TYPE_CHECKING:
    from pathlib import Path

SHORT = [{"role": "user", "content": "안녕?"}, {"role": "assistant", "content": "네."}]
LONG = [
    {"role": "user", "content": "Where does an adapter belong, and what is it added to?"},
    {"role": "assistant", "content": "To its own base."},
]


def write_shortened(base: Path, out: Path) -> int:
    """Write the model in `base` with its first layers alone, as prepare-base would; how many layers are left."""
    import torch

    model = load_shortened(base, torch.bfloat16)
    model.save_pretrained(out)
    copy_tokenizer(base, out)
    modules = {"target_modules": all_linear(model), "weights_sha256": weights_sha256(out)}
    write_lineage(out, {**read_lineage(base), **modules})
    return len(layers_of(model))


def write_rows(questions: Path, preferences: Path, sampled: Path) -> None:
    """Prepared rows in these folders: two conversations, two pairs, and none of a model's own answers."""
    for folder in (questions, preferences, sampled):
        folder.mkdir(parents=True)
    both = list(enumerate((SHORT, LONG)))
    write_jsonl(questions / "train.jsonl", [{"id": str(number), "messages": messages} for number, messages in both])
    pairs = [
        {"id": str(number), "prompt": messages[:1], "chosen": messages[1]["content"], "rejected": "아니요."}
        for number, messages in both
    ]
    write_jsonl(preferences / "train.jsonl", pairs)
    write_jsonl(preferences / "unpaired.jsonl", [])
    write_jsonl(sampled / "train.jsonl", [])
