"""A real tokenizer without a download: every byte is a token."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers


def write_byte_tokenizer(base: Path) -> None:
    """Write `base`/tokenizer.json."""
    base.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(base / "tokenizer.json"))
