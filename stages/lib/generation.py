"""Answers from a model, many at a time."""

from dataclasses import dataclass
from typing import Any

from stages.lib.chat import Messages, encode_prompt, stop_ids
from stages.lib.hardware import device

CPU_BATCH_TOKENS = 16384
GPU_BATCH_TOKENS = 262144


@dataclass
class Answer:
    """What a model said: the text without special tokens, and whether it ended by itself."""

    text: str
    stopped: bool
    tokens: int


def generate_answers(
    model: Any, tokenizer: Any, prompts: list[Messages], max_new_tokens: int, batch_tokens: int = 0
) -> list[Answer]:
    """Greedy answers to `prompts`, in their order.

    Prompts are sorted by length and batched so that prompt and answer positions of a batch stay within
    `batch_tokens` (0: by the hardware found). They are padded on the left: padded on the right, a model continues
    padding and gives garbage without an error.
    """
    budget = batch_tokens or (GPU_BATCH_TOKENS if device() == "cuda" else CPU_BATCH_TOKENS)
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    answers: dict[int, Answer] = {}
    for batch in batches_by_length([len(ids) + max_new_tokens for ids in encoded], budget):
        answers |= zip(
            batch, generate_batch(model, tokenizer, [encoded[i] for i in batch], max_new_tokens), strict=True
        )
    return [answers[index] for index in range(len(prompts))]


def generate_batch(model: Any, tokenizer: Any, prompts: list[list[int]], max_new_tokens: int) -> list[Answer]:
    """Greedy answers to one batch of tokenised prompts."""
    import torch

    width = max(len(ids) for ids in prompts)
    pad = tokenizer.pad_token_id
    input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=model.device)
    attention_mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=model.device)
    with torch.inference_mode():
        output = model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
    stops = stop_ids(model.generation_config)
    answers = []
    for row in output[:, width:].tolist():
        end = next((index for index, token in enumerate(row) if token in stops), len(row))
        text = tokenizer.decode(row[:end], skip_special_tokens=True).strip()
        answers.append(Answer(text, stopped=end < len(row), tokens=end))
    return answers


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
