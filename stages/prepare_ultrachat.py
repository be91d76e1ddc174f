"""Multi-turn chats for SFT, and held-out ones that show what tuning made the model forget.

Reads   UltraChat 200k from the hub, or a file in its schema (prompt, prompt_id, messages); models/base's tokenizer
Writes  data/prepared/ultrachat: train.jsonl, evaluation.jsonl, rejects.jsonl, data_report.json, DATA_CARD.md;
        metrics/data_ultrachat*
Run     python -m stages.prepare_ultrachat
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.lib.conversations import MALFORMED, UNREADABLE, Conversation, admit_conversation, cut_at_turns
from stages.lib.data_report import data_card, token_histogram, write_reports
from stages.lib.entry import run
from stages.lib.errors import UserError
from stages.lib.jsonl_reader import Rejected
from stages.lib.ledger import Ledger
from stages.lib.near_duplicates import KnownQuestions, hash_of
from stages.lib.publish import published
from stages.lib.records import normalised, write_jsonl
from stages.lib.rows import load_rows, name, version
from stages.lib.schema import Overlap, PrepareUltrachat, Rows
from stages.lib.token_lengths import TokenCounter

SOURCE = Path("data/raw/ultrachat")
BASE = Path("models/base")
OUT = Path("data/prepared/ultrachat")
METRIC = Path("metrics/data_ultrachat.json")
FUNNEL = Path("metrics/data_ultrachat_funnel.csv")
TOKENS = Path("metrics/data_ultrachat_tokens.csv")

STEPS = {
    "readable": UNREADABLE,
    "well formed": MALFORMED,
    "short enough": ("too_long_tokens",),
    "no doubles": ("duplicate_prompt_id", "duplicate_prompt"),
    "not in evaluation": ("in_evaluation",),
}


def prepare_ultrachat(section: PrepareUltrachat, root: Path) -> dict[str, Any]:
    counter, held_out = TokenCounter(BASE), HeldOut({}, KnownQuestions(), [])
    lengths = array("I")
    splits, sources = {}, []
    with published(root / OUT) as out:
        out.mkdir()
        with Ledger(out, STEPS) as ledger:
            for split, rows in {"evaluation": section.evaluation, "train": section.train}.items():
                before = ledger.read
                admitted = counter.measured(conversations(rows, ledger), lambda row: row.texts())
                fitting = short_enough(admitted, section.max_tokens, lengths, ledger)
                kept = held_out.remember(fitting) if split == "evaluation" else held_out.keep_apart(fitting, ledger)
                splits[split] = {"rows": write_jsonl(out / f"{split}.jsonl", (row.record() for row in kept))}
                sources.append({"name": name(rows), "rows": ledger.read - before, "version": version(rows)})
            if section.overlap is Overlap.error:
                held_out.refuse_overlap()
            ledger.refuse_many((*UNREADABLE, *MALFORMED), section.max_reject_rate, "prepare_ultrachat.max_reject_rate")
            counts = ledger.balance(sum(part["rows"] for part in splits.values()))
            report = {**counts, "splits": splits, "sources": sources}
            histogram = token_histogram(lengths, section.max_tokens)
            card = data_card("Conversations", report, ledger, histogram, beware(section))
            write_reports(out, (root / METRIC, root / FUNNEL, root / TOKENS), report, ledger, histogram, card)
    return {"in": report["in"], "kept": report["kept"], "splits": splits}


def conversations(rows: Rows, ledger: Ledger) -> Iterator[Conversation]:
    """Yield the conversations that can be trained on, each id and first question once; count all."""
    ids: set[int] = set()
    prompts: set[int] = set()
    for line in load_rows(rows):
        ledger.read += 1
        row = line if isinstance(line, Rejected) else admit_conversation(line)
        if isinstance(row, Rejected):
            ledger.reject(row)
            continue
        identity, prompt = hash_of(row.id), hash_of(normalised(row.prompt()))
        if identity in ids:
            ledger.reject(Rejected(row.where, "duplicate_prompt_id", row.id, row.prompt()))
        elif prompt in prompts:
            ledger.reject(Rejected(row.where, "duplicate_prompt", row.prompt()[:80], row.prompt()))
        else:
            ids.add(identity)
            prompts.add(prompt)
            yield row


def short_enough(
    rows: Iterable[tuple[Conversation, list[int]]], max_tokens: int, lengths: "array[int]", ledger: Ledger
) -> Iterator[Conversation]:
    """Yield the conversations cut to whole exchanges within `max_tokens` (0: uncut), and note their lengths."""
    for row, tokens in rows:
        whole = len(row.messages)
        if max_tokens:
            row.messages = cut_at_turns(row.messages, tokens, max_tokens)
        if not row.messages:
            detail = f"the first exchange is longer than {max_tokens} tokens (prepare_ultrachat.max_tokens)"
            ledger.reject(Rejected(row.where, "too_long_tokens", detail, row.id))
            continue
        ledger.mended.update([*row.mended, *["cut_at_turn"] * (len(row.messages) < whole)])
        lengths.append(sum(tokens[: len(row.messages)]))
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
            self.questions.add(row.where, row.prompt())
            yield row

    def keep_apart(self, rows: Iterable[Conversation], ledger: Ledger) -> Iterator[Conversation]:
        """Pass on the training rows that evaluation doesn't have by id, first question or nearly equal question."""
        for row in rows:
            known = self.ids.get(row.id) or self.questions.find(row.prompt())
            if known:
                self.overlaps.append(f"{row.where} = {known} ({row.prompt()[:60]})")
                ledger.reject(Rejected(row.where, "in_evaluation", f"asks what {known} does", row.prompt()))
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


def beware(section: PrepareUltrachat) -> list[str]:
    """What a reader of the card should know."""
    notes = []
    if "ultrachat" in section.train.id:
        notes.append(
            "UltraChat is text that ChatGPT wrote, under an MIT licence card; its answers were checked by nobody."
        )
    if not section.max_tokens:
        notes.append("Long conversations are whole here; SFT cuts them at its own max_length.")
    return notes


if __name__ == "__main__":
    run(prepare_ultrachat)
