"""Lengths in the base model's own tokens, without loading the model or torch."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from stages.lib.errors import UserError

T = TypeVar("T")
BATCH = 500
"""Rows that are tokenised together: the tokenizer uses every core."""
PER_MESSAGE = 8
"""Tokens that a chat template puts around a message: 5 in ChatML and Zephyr, up to 8 in Llama 3's."""


class TokenCounter:
    """Counts the tokens of conversations by models/base/tokenizer.json."""

    def __init__(self, base: Path) -> None:
        from tokenizers import Tokenizer

        path = base / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"{path}: no such file; needed the base model's tokenizer. Run `dvc repro prepare-base`")
        self.tokenizer: Any = Tokenizer.from_file(str(path))

    def measured(self, rows: Iterable[T], texts: Callable[[T], list[str]]) -> Iterator[tuple[T, list[int]]]:
        """Yield each row with the tokens of each of its texts, template marks included."""
        iterator = iter(rows)
        while batch := list(islice(iterator, BATCH)):
            messages = [texts(row) for row in batch]
            flat = [text for parts in messages for text in parts]
            encoded = iter(self.tokenizer.encode_batch_fast(flat, add_special_tokens=False))
            for row, parts in zip(batch, messages, strict=True):
                yield row, [len(next(encoded).ids) + PER_MESSAGE for _ in parts]
