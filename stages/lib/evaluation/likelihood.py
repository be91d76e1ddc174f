"""How likely a model finds given answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.lib.evaluation.batches import batches_by_length
from stages.lib.evaluation.progress import Advance, silent
from stages.lib.models.chat import Messages, encode
from stages.lib.models.logits import logits_at

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def answer_log_probs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[Messages],
    batch_tokens: int,
    advance: Advance = silent,
) -> list[tuple[float, int]]:
    """Summed log-probability (natural) and number of the assistant's tokens, for each conversation.

    Stop tokens count as the assistant's. Only the assistant's positions are projected onto the vocabulary. Padded
    positions of a batch stay within `batch_tokens` (see batches.py). `advance` is told of each batch.
    """
    import torch

    encoded = [encode(tokenizer, messages) for messages in conversations]
    results: dict[int, tuple[float, int]] = {}
    for batch in batches_by_length([len(row.input_ids) for row in encoded], batch_tokens):
        width = max(len(encoded[index].input_ids) for index in batch)
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        said = torch.zeros((len(batch), width), dtype=torch.bool)
        present = torch.zeros((len(batch), width), dtype=torch.long)
        for row, index in enumerate(batch):
            length = len(encoded[index].input_ids)
            ids[row, :length] = torch.tensor(encoded[index].input_ids)
            said[row, :length] = torch.tensor(encoded[index].by_assistant)
            present[row, :length] = 1
        ids, said, present = ids.to(model.device), said.to(model.device), present.to(model.device)
        with torch.inference_mode():
            before = torch.nn.functional.pad(said[:, 1:], (0, 1))  # what a position says is the next one's token
            logits = logits_at(model, before, input_ids=ids, attention_mask=present).float()
            scores = -torch.nn.functional.cross_entropy(logits, ids[:, 1:][said[:, 1:]], reduction="none")
        by_row = torch.zeros(said[:, 1:].shape, device=model.device).masked_scatter(said[:, 1:], scores).sum(1).tolist()
        counts = said[:, 1:].sum(1).tolist()
        results |= {index: (by_row[row], counts[row]) for row, index in enumerate(batch)}
        advance(len(batch))
    return [results[index] for index in range(len(conversations))]
