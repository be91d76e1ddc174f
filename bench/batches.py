"""Scores of one model in batches of 1, 4 and 16 rows: what of a score is the batch's, in float32 and in 16 bit.

Needs   models/ and data/prepared (run `make repro` once)
Run     python -m bench.batches MODEL_DIRECTORY float32|bfloat16 [SET ...] [ROWS ...]

All sets of the default run unless some are named, as the stage `evaluate` scores them. The digest is over every answer
and figure.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from stages.evaluate import PDF_QA, PREFERENCES, ULTRACHAT
from stages.lib.evaluation import generation, likelihood
from stages.lib.evaluation.batches import BatchTokens
from stages.lib.evaluation.figures import figures_of, values_alone
from stages.lib.evaluation.scoring import score_model
from stages.lib.every_stage.records import read_jsonl
from stages.lib.hardware import describe, set_up_cpu
from stages.lib.models.loading import load_16bit, load_tokenizer
from stages.lib.schema.evaluation import Evaluate

SETS = {
    "seen": PDF_QA / "seen.jsonl",
    "unseen": PDF_QA / "unseen.jsonl",
    "unanswerable": PDF_QA / "unanswerable.jsonl",
    "control_all": ULTRACHAT / "evaluation.jsonl",
    "preferences": PREFERENCES / "evaluation.jsonl",
}
SECTION = Evaluate(max_new_tokens=77, bootstrap_resamples=100, seed=42)


def scored(model: Any, tokenizer: Any, names: list[str], size: int) -> tuple[dict[str, str], dict[str, float]]:
    """Answers by row, and figures by name, with every batch of at most `size` rows of like length."""

    def batches(lengths: list[int], budget: int) -> list[list[int]]:
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        return [order[start : start + size] for start in range(0, len(order), size)]

    generation.batches_by_length = likelihood.batches_by_length = batches
    records = {name: list(read_jsonl(path)) if name in names else [] for name, path in SETS.items()}
    rows, _ = score_model(model, tokenizer, "model", records, "?", SECTION, BatchTokens(1, 1))
    values = values_alone({"model": figures_of(rows, SECTION.bootstrap_resamples, SECTION.seed)})["model"]
    figures = {f"{split} {name}": value for split, cells in values.items() for name, value in cells.items()}
    return {f"{row['split']}/{row['id']}": row["prediction"] for row in rows if "prediction" in row}, figures


if __name__ == "__main__":
    directory, dtype, *given = sys.argv[1:]
    names = [name for name in given if name in SETS] or list(SETS)
    sizes = [int(size) for size in given if size not in SETS] or [1, 4, 16]
    import torch

    set_up_cpu(0)
    print(describe(), directory, dtype, *names, flush=True)
    tokenizer, model = load_tokenizer(Path(directory)), load_16bit(Path(directory), getattr(torch, dtype))
    first: tuple[dict[str, str], dict[str, float]] | None = None
    for size in sizes:
        answers, figures = found = scored(model, tokenizer, names, size)
        digest = hashlib.sha256(json.dumps(found, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]
        first = first or found
        other = [name for name, text in answers.items() if text != first[0][name]]
        moved = {name: (first[1][name], value) for name, value in figures.items() if value != first[1][name]}
        print(f"rows {size:>2}: digest {digest}; to rows {sizes[0]}: {len(other)} of {len(answers)} answers differ")
        for name, (old, new) in moved.items():
            print(f"    {name}: {old} -> {new}")
        sys.stdout.flush()
