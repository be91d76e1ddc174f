"""The gates of conversations in order: one by one, duplicates, length, and what evaluation asks too."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stages.lib.conversations.conversations import (
    MALFORMED,
    UNREADABLE,
    Conversation,
    admit_conversation,
    without_last_exchange,
)
from stages.lib.data.columns import Reading
from stages.lib.data.comparison import hash_of, letters
from stages.lib.data.jsonl_reader import Rejected
from stages.lib.data.ledger import Ledger
from stages.lib.data.near_duplicates import KnownQuestions
from stages.lib.data.rendered_rows import Rendered, RowRenderer, unfit_row
from stages.lib.data.rows import load_rows
from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat_template import UNFIT, Unfit
from stages.lib.schema.data import Rows

STEPS = {
    "readable": UNREADABLE,
    "well formed": MALFORMED,
    "rendered": UNFIT,
    "short enough": ("too_long_tokens",),
    "no duplicates": ("duplicate_prompt_id", "duplicate_prompt"),
    "not in evaluation": ("in_evaluation",),
}
"""The funnel's steps, and the reasons that each drops rows for."""


@dataclass
class Taken:
    """Hashes of the ids and first questions that one split has so far."""

    ids: set[int] = field(default_factory=set)
    prompts: set[int] = field(default_factory=set)


def conversations(rows: Rows, reading: Reading, taken: Taken, ledger: Ledger) -> Iterator[Conversation]:
    """Yield the conversations that can be trained on, each id and first question once in a split; count all."""
    for line in load_rows(rows):
        ledger.read += 1
        row = line if isinstance(line, Rejected) else admit_conversation(line, reading)
        if isinstance(row, Rejected):
            ledger.reject(row)
            continue
        identity, prompt = hash_of(row.id), hash_of(letters(row.question))
        if identity in taken.ids:
            ledger.reject(Rejected(row.where, "duplicate_prompt_id", row.id, row.question))
        elif prompt in taken.prompts:
            ledger.reject(Rejected(row.where, "duplicate_prompt", row.question[:80], row.question))
        else:
            taken.ids.add(identity)
            taken.prompts.add(prompt)
            yield row


def short_enough(
    rows: Iterable[Rendered[Conversation]],
    max_tokens: int,
    renderer: RowRenderer,
    lengths: "array[int]",
    ledger: Ledger,
) -> Iterator[Conversation]:
    """Yield the conversations truncated to whole exchanges within `max_tokens` (0: uncut), and note their lengths."""
    for found in rows:
        row, (messages,), (tokens,) = found.row, found.conversations, found.tokens
        whole = len(messages)
        try:
            while max_tokens and tokens > max_tokens:
                messages = without_last_exchange(messages)
                tokens = renderer.tokens(messages) if messages else 0
        except Unfit as unfit:
            ledger.reject(unfit_row(row, unfit))
            continue
        if not messages:
            detail = f"the first exchange is longer than {max_tokens} tokens (prepare_ultrachat.max_tokens)"
            ledger.reject(Rejected(row.where, "too_long_tokens", detail, row.id))
            continue
        ledger.fixed.update([*row.fixed, *["cut_at_turn"] * (len(messages) < whole)])
        lengths.append(tokens)
        row.messages = messages
        yield row


@dataclass
class HeldOut:
    """The evaluation conversations, by id and by first question, and the training rows that repeat one."""

    ids: dict[str, str]
    questions: KnownQuestions
    overlaps: list[str]

    def remember(self, rows: Iterable[Conversation]) -> Iterator[Conversation]:
        """Pass the evaluation rows on, remembering what they ask."""
        for row in rows:
            self.ids[row.id] = row.where
            self.questions.add(row.where, row.question)
            yield row

    def keep_apart(self, rows: Iterable[Conversation], ledger: Ledger) -> Iterator[Conversation]:
        """Pass on the training rows that evaluation doesn't have by id, first question or nearly equal question."""
        for row in rows:
            known = self.ids.get(row.id) or self.questions.find(row.question)
            if known:
                self.overlaps.append(f"{row.where} = {known} ({row.question[:60]})")
                ledger.reject(Rejected(row.where, "in_evaluation", f"asks what {known} does", row.question))
            else:
                yield row

    def refuse_overlap(self) -> None:
        """Raise UserError naming the training rows that evaluation has too."""
        if self.overlaps:
            raise UserError(
                f"{len(self.overlaps)} training conversations are in evaluation too: {'; '.join(self.overlaps[:5])}. "
                "Give prepare_ultrachat.evaluation rows that train does not have (skip, take, split), or set "
                "prepare_ultrachat.overlap=drop to leave them out of training"
            )
