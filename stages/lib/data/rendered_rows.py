"""Rows as the base model's chat template writes them: refused, folded, and counted in the model's own tokens.

What a template can't hold is found here, in a data stage's seconds, and not after hours of training. Neither the model
nor torch is loaded.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from stages.lib.data.jsonl_reader import Rejected
from stages.lib.data.ledger import FOLDED, Ledger
from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat_template import REFUSED, ChatTemplate, Messages, Unfit, folded
from stages.lib.schema.choices import SystemMessages

BATCH = 500
"""Rows that are tokenised together: the tokenizer uses every core."""


class Row(Protocol):
    """An admitted row: where it stood, what was fixed in it, and the conversations that training makes of it."""

    where: str
    fixed: list[str]

    def conversations(self) -> list[Messages]: ...

    def dropped(self, reason: str, detail: str, text: str) -> Rejected: ...


R = TypeVar("R", bound=Row)


@dataclass
class Rendered(Generic[R]):
    """A row with its conversations in the form that the template takes, and the tokens of each, marks included."""

    row: R
    conversations: list[Messages]
    tokens: list[int]


class RowRenderer:
    """Renders rows by models/base's chat template and counts their tokens by its tokenizer.json.

    `system_messages` says what becomes of a system message where the template takes none.
    """

    def __init__(self, base: Path, system_messages: SystemMessages = SystemMessages.refuse) -> None:
        from tokenizers import Tokenizer

        path = base / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"{path}: no such file; needed the base model's tokenizer. Run `dvc repro prepare-base`")
        self.tokenizer = Tokenizer.from_buffer(path.read_bytes())  # whose errors name the file
        self.template = ChatTemplate.of(base)
        self.system_messages = system_messages

    def rendered(self, rows: Iterable[R], ledger: Ledger) -> Iterator[Rendered[R]]:
        """Yield the rows that the template can hold, and put the others into the ledger."""
        iterator = iter(rows)
        while batch := list(islice(iterator, BATCH)):
            fit: list[tuple[R, list[Messages], list[str]]] = []
            for row in batch:
                try:
                    conversations = [self.taken(messages) for messages in row.conversations()]
                    texts = [self.template.checked(messages) for messages in conversations]
                except Unfit as unfit:
                    ledger.reject(unfit_row(row, unfit))
                    continue
                if len(conversations[0]) < len(row.conversations()[0]):
                    row.fixed.append(FOLDED)
                fit.append((row, conversations, texts))
            counts = iter(self.counted([text for _, _, texts in fit for text in texts]))
            for row, conversations, texts in fit:
                yield Rendered(row, conversations, [next(counts) for _ in texts])

    def taken(self, messages: Messages) -> Messages:
        """A conversation in the form that the template takes. Raises Unfit if it takes none."""
        if self.template.takes_system or messages[0]["role"] != "system":
            return messages
        if self.system_messages is SystemMessages.fold:
            return folded(messages)
        raise Unfit(REFUSED, f"{self.template.place} takes no system message; system_messages=fold puts it in front of "
                             "the first question")  # fmt: skip

    def tokens(self, messages: Messages) -> int:
        """The tokens of one conversation. Raises Unfit if the template can't hold it."""
        return self.counted([self.template.checked(messages)])[0]

    def fits(self, max_tokens: int, messages: Messages) -> bool:
        """Whether the template can hold a conversation, in at most `max_tokens` tokens."""
        try:
            return self.tokens(messages) <= max_tokens
        except Unfit:
            return False

    def counted(self, texts: list[str]) -> list[int]:
        """The tokens of rendered texts: the ids that training sees, which the tokenizer adds none to."""
        return [len(found.ids) for found in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def unfit_row(row: Row, unfit: Unfit) -> Rejected:
    """The reject of a row that the template can't hold."""
    reason, detail = unfit.args
    return row.dropped(reason, detail, json.dumps(row.conversations()[0], ensure_ascii=False))
