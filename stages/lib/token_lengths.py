"""Lengths in the base model's own tokens, without loading the model or torch."""

from pathlib import Path
from typing import Any

from stages.lib.errors import UserError

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

    def lengths(self, conversations: list[list[str]]) -> list[list[int]]:
        """Tokens of every message of every conversation, template marks included."""
        texts = [text for conversation in conversations for text in conversation]
        encoded = iter(self.tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        return [[len(next(encoded).ids) + PER_MESSAGE for _ in conversation] for conversation in conversations]
