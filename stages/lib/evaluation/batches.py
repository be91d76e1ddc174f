"""Rows in batches of like length, and how many of their tokens fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.lib.every_stage.errors import UserError
from stages.lib.hardware import Hardware
from stages.lib.models.shape import shape_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_GENERATED = {"cpu": 16384, "cuda": 262144}
MOST_SCORED = {"cpu": 2048, "cuda": 65536}
"""Tokens beyond which larger batches are hardly faster."""

SHARE = 0.5
"""Of the free memory: the estimate knows nothing of the allocator, nor of a cache that is copied as rows end."""


@dataclass(frozen=True)
class BatchTokens:
    """Padded tokens of one batch: of prompts with their answers, and of texts whose likelihood is asked for."""

    generated: int
    scored: int


def fitting_batches(model: PreTrainedModel, hardware: Hardware, max_new_tokens: int, most: int = 0) -> BatchTokens:
    """Batches that fit into the memory that is free beside `model`, each of at most `most` tokens (0: as many as fit).

    They are powers of 2, so that a little more or less free memory doesn't change what 16-bit sums round to. In bytes
    a token of a Llama-like model, with b bytes each, l layers, hidden width h, inner width i, key and value width k,
    vocabulary v: the cache 2 l k b, what passes through one layer (6 h + 3 i) b, the logits of an answer's next token
    v b once a row, those of a scored token v (b + 8), in float32 and their softmax.
    """
    shape, size = shape_of(model), model.dtype.itemsize
    passing = (6 * shape.hidden + 3 * shape.inner) * size
    generated = 2 * shape.layers * shape.key_value * size + passing + shape.vocabulary * size // max_new_tokens
    scored = passing + shape.vocabulary * (size + 8)

    def fitting(cost: int, enough: int) -> int:
        fits = max(1, int(SHARE * hardware.free_memory) // cost)
        return min(1 << (fits.bit_length() - 1), enough, most or enough)

    device = hardware.device
    return BatchTokens(most or fitting(generated, MOST_GENERATED[device]), fitting(scored, MOST_SCORED[device]))


@contextmanager
def explain_full_memory(batch: BatchTokens, setting: str = "evaluate.batch_tokens") -> Iterator[None]:
    """Raise UserError in place of a GPU's whose memory is full: it names smaller batches by their `setting`."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"batches of {batch.generated} padded tokens for answers and {batch.scored} for likelihoods don't fit into "
            f"the GPU's memory. Set {setting}={max(1, min(vars(batch).values()) // 2)}, or free memory"
        ) from error


def batches_by_length(lengths: list[int], budget: int) -> list[list[int]]:
    """Indices of rows in batches of like length, longest first, each of at most `budget` padded positions.

    A row longer than the budget is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    for index in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
