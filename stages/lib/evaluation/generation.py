"""Answers from a model, many at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.lib.evaluation.batches import batches_by_length
from stages.lib.evaluation.progress import Advance, silent
from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat import Messages, encode_prompt, stop_ids

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Answer:
    """What a model said: the text without special tokens, and whether it ended by itself."""

    text: str
    stopped: bool
    tokens: int


def decoding(continuous: bool) -> dict[str, str]:
    """How answers are generated, for the record."""
    return {"decoding": "greedy", "penalties": "none", "padding": "none" if continuous else "left"}


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Messages],
    max_new_tokens: int,
    batch_tokens: int,
    advance: Advance = silent,
) -> list[Answer]:
    """Greedy answers to `prompts`, in their order; `advance` is told of each batch.

    Prompts are sorted by length and batched so that prompt and answer positions of a batch stay within
    `batch_tokens` (see batches.py). They are padded on the left: padded on the right, a model continues padding and
    gives garbage without an error.
    """
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    answers: dict[int, Answer] = {}
    for batch in batches_by_length([len(ids) + max_new_tokens for ids in encoded], batch_tokens):
        answers |= zip(
            batch, generate_batch(model, tokenizer, [encoded[i] for i in batch], max_new_tokens), strict=True
        )
        advance(len(batch))
    return [answers[index] for index in range(len(prompts))]


def sample_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Messages],
    times: int,
    temperature: float,
    seed: int,
    max_new_tokens: int,
    batch_tokens: int,
    advance: Advance = silent,
) -> list[list[Answer]]:
    """`times` answers to each of `prompts`, drawn at `temperature` from all that the model may say; batched as above.

    Each answer has its own random numbers, by `seed` and by its place among all: which prompts share a batch doesn't
    change what is drawn, but for the rounding of their logits.
    """
    import torch

    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    numbers = torch.rand(
        len(prompts), times, max_new_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    answers: dict[int, list[Answer]] = {}
    for batch in batches_by_length([times * (len(ids) + max_new_tokens) for ids in encoded], batch_tokens):
        draws = Draws(numbers[batch].flatten(0, 1).to(model.device), times, temperature)
        found = generate_batch(model, tokenizer, [encoded[index] for index in batch], max_new_tokens, draws)
        answers |= {index: found[place * times : (place + 1) * times] for place, index in enumerate(batch)}
        advance(len(batch))
    return [answers[index] for index in range(len(prompts))]


@dataclass
class Draws:
    """Random numbers that tokens are drawn by: the inverse of the cumulative distribution, at each number."""

    numbers: Tensor  # (rows, tokens), uniform in [0, 1)
    times: int  # rows of each prompt, one after another
    temperature: float

    def tokens(self, logits: Tensor, rows: list[int], step: int) -> Tensor:
        """A token for each of `rows` by its number of this `step`, from `logits` (rows, vocabulary)."""
        # small shares would be lost in a sum in float32
        shares = (logits.float() / self.temperature).softmax(-1).cumsum(-1, dtype=self.numbers.dtype)
        drawn = self.numbers[rows, step, None] * shares[:, -1:]
        return (shares <= drawn).sum(-1).clamp(max=logits.shape[-1] - 1)


def generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    draws: Draws | None = None,
) -> list[Answer]:
    """Greedy answers to one batch of tokenised prompts, or those of `draws`; rows that have ended leave the batch.

    Our own loop, since transformers' `generate` computes every row until the last one ends. Rows leave caches of keys
    and values; a model whose layers keep another state is left to `generate`.
    """
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    if not keeps_keys_and_values(cache):
        return generate_by_transformers(model, tokenizer, prompts, max_new_tokens, draws)
    times = draws.times if draws else 1
    ids, present = (torch.tensor(side, device=model.device) for side in padded_left(prompts, tokenizer.pad_token_id))
    positions = (present.cumsum(1) - 1).clamp(min=0)
    stops = stop_ids(model.generation_config)
    said: list[list[int]] = [[] for _ in range(len(prompts) * times)]
    stopped = [False] * len(said)
    going = list(range(len(said)))
    with torch.inference_mode():
        for step in range(max_new_tokens):
            output = model(
                input_ids=ids, attention_mask=present, position_ids=positions, past_key_values=cache, logits_to_keep=1
            )
            logits = output.logits[:, -1]
            if step == 0 and times > 1:  # a prompt is read once for all answers to it
                cache.batch_repeat_interleave(times)
                logits, present, positions = (each.repeat_interleave(times, 0) for each in (logits, present, positions))
            tokens = draws.tokens(logits, going, step) if draws else logits.argmax(-1)
            kept = []
            for place, (row, token) in enumerate(zip(going, tokens.tolist(), strict=True)):
                if token in stops:
                    stopped[row] = True
                else:
                    said[row].append(token)
                    kept.append(place)
            if not kept:
                break
            if len(kept) < len(going):
                places = torch.tensor(kept, device=model.device)
                cache.batch_select_indices(places)
                tokens, present, positions = tokens[places], present[places], positions[places]
                going = [going[place] for place in kept]
            ids = tokens[:, None]
            present = torch.nn.functional.pad(present, (0, 1), value=1)
            positions = positions[:, -1:] + 1
    texts = tokenizer.batch_decode(said, skip_special_tokens=True)
    return [Answer(text.strip(), end, len(row)) for text, end, row in zip(texts, stopped, said, strict=True)]


def keeps_keys_and_values(cache: DynamicCache) -> bool:
    """Whether a model's cache holds keys and values alone, of all tokens or of a window of them."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    return bool(cache.layers) and {type(layer) for layer in cache.layers} <= {DynamicLayer, DynamicSlidingWindowLayer}


def generate_by_transformers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    draws: Draws | None = None,
) -> list[Answer]:
    """As generate_batch, by transformers' own `generate`, without the penalties of a model's generation_config."""
    import torch
    from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

    class Drawn(LogitsProcessor):
        """Leaves the drawn token alone to be chosen."""

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Any:
            assert draws
            step = input_ids.shape[1] - ids.shape[1]
            tokens = draws.tokens(scores, list(range(len(scores))), step)
            return torch.full_like(scores, float("-inf")).scatter(-1, tokens[:, None], 0.0)

    prompts = [prompt for prompt in prompts for _ in range(draws.times if draws else 1)]
    stops = stop_ids(model.generation_config)
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=sorted(stops),
        pad_token_id=tokenizer.pad_token_id,
    )
    ids, present = (torch.tensor(side, device=model.device) for side in padded_left(prompts, tokenizer.pad_token_id))
    with torch.inference_mode():
        generating: Any = model  # by a mixin that the type of all models doesn't have
        whole = generating.generate(
            ids,
            attention_mask=present,
            generation_config=greedy,
            logits_processor=LogitsProcessorList([Drawn()] if draws else []),
        )
    answers = []
    for row in whole[:, ids.shape[1] :].tolist():
        end = next((place for place, token in enumerate(row) if token in stops), None)
        text = str(tokenizer.decode(row[:end], skip_special_tokens=True)).strip()
        answers.append(Answer(text, end is not None, len(row) if end is None else end))
    return answers


def generate_continuously(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Messages],
    max_new_tokens: int,
    batch_tokens: int,
) -> list[Answer]:
    """Greedy answers to `prompts`, in their order, by transformers' continuous batching: no row waits for another.

    Its cache is in pages for `batch_tokens` tokens (see batches.py); left to itself it takes nearly all free memory.
    Raises UserError where an answer is missing: transformers logs that, and returns the others.
    """
    from transformers import ContinuousBatchingConfig, GenerationConfig

    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    stops = stop_ids(model.generation_config)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(stops),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    longest = max(map(len, encoded)) + max_new_tokens
    pages = ContinuousBatchingConfig(
        num_blocks=-(-max(batch_tokens, 2 * longest) // ContinuousBatchingConfig.page_size)
    )
    generating: Any = model
    found = list(
        generating.generate_batch(encoded, generation_config=config, continuous_batching_config=pages).values()
    )
    failed = [str(each.error) for each in found if each.error]
    if failed or [each.prompt_ids for each in found] != encoded:
        raise UserError(
            f"continuous batching: {len(found) - len(failed)} of {len(encoded)} prompts were answered"
            f"{': ' + failed[0] if failed else ''}. Set evaluate.continuous_batching=false"
        )
    answers = []
    for each in found:
        said = each.generated_tokens
        stopped = said[-1] in stops
        said = said[: len(said) - stopped]
        text = str(tokenizer.decode(said, skip_special_tokens=True)).strip()
        answers.append(Answer(text, stopped, len(said)))
    return answers


def padded_left(prompts: list[list[int]], pad: int) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids and attention mask of equal width, padding first."""
    width = max(len(ids) for ids in prompts)
    return (
        [[pad] * (width - len(ids)) + ids for ids in prompts],
        [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts],
    )
