"""A real tokenizer without a download: every byte is a token."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TEMPLATE = "{% for m in messages %}{{ '<' + m.role[0] + '>' + m.content + '</s>\\n' }}{% endfor %}"
"""Eight bytes around each message."""


def write_byte_tokenizer(base: Path, template: str = TEMPLATE) -> None:
    """Write `base`/tokenizer.json and a chat template."""
    base.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()  # without it text comes back with blanks between its letters
    tokenizer.save(str(base / "tokenizer.json"))
    (base / "chat_template.jinja").write_text(template, encoding="utf-8")
