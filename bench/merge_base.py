"""What a merge does to what was learned: the default adapter beside its nf4 weights, merged into them, and merged
into the original ones.

Needs   models/base, models/sft and data/prepared (run `make repro` once)
Run     python -m bench.merge_base
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages.lib.evaluation.generation import generate_answers
from stages.lib.evaluation.key_facts import key_exact
from stages.lib.every_stage.lineage import read_lineage
from stages.lib.every_stage.records import read_jsonl
from stages.lib.hardware import describe, set_up_cpu
from stages.lib.merging.merge_adapter import load_unmerged, merge_adapter, probe_conversations
from stages.lib.models.loading import load_strictly, load_tokenizer
from stages.lib.schema.choices import MergeBase
from stages.lib.schema.merging import Merge
from stages.merge import ADAPTER, BASE, PDF_QA, ULTRACHAT

MAX_NEW_TOKENS = 96
BATCH_TOKENS = 16384


def share_right(model: Any, records: list[dict[str, Any]]) -> float:
    """The share of questions whose answer holds the key."""
    prompts = [record["messages"][:-1] for record in records]
    answers = generate_answers(model, load_tokenizer(BASE), prompts, MAX_NEW_TOKENS, BATCH_TOKENS)
    right = [key_exact(record["key"], answer.text) for record, answer in zip(records, answers, strict=True)]
    return sum(right) / len(right)


if __name__ == "__main__":
    import torch

    set_up_cpu(0)
    print(describe())
    seen = [record for record in read_jsonl(PDF_QA / "seen.jsonl") if record["answerable"]]
    probes = probe_conversations([PDF_QA / "train.jsonl", ULTRACHAT / "train.jsonl"], Merge().probes)
    unmerged = load_unmerged(BASE, ADAPTER, read_lineage(ADAPTER))
    print(f"{'unmerged, as trained':32} key_exact {share_right(unmerged, seen):.2f} on {len(seen)} seen questions")
    with TemporaryDirectory() as folder:
        for base in MergeBase:
            target = Path(folder) / base.value
            section = Merge(base=base, max_kl=float("inf"))
            _, figures = merge_adapter("bench", section, BASE, ADAPTER, target, probes)
            right = share_right(load_strictly(target, torch.bfloat16), seen)
            print(f"{'merged, base=' + base.value:32} key_exact {right:.2f}, KL {figures['kl']:.4f} nats a token")
