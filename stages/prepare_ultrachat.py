"""Multi-turn chats for SFT, and held-out ones, by language, that show what tuning made the model forget.

Reads   UltraChat 200k from the hub, or a file in its schema (prompt, prompt_id, messages); models/base's tokenizer
        and chat template
Writes  data/prepared/ultrachat: train.jsonl, evaluation.jsonl, rejects.jsonl, data_report.json, DATA_CARD.md;
        metrics/data_ultrachat*
Run     python -m stages.prepare_ultrachat
"""

from array import array
from pathlib import Path
from typing import Any

from stages.lib.conversations.conversation_gates import STEPS, HeldOut, Taken, conversations, short_enough
from stages.lib.conversations.conversations import MALFORMED, UNREADABLE, USUAL
from stages.lib.data.columns import Reading, named_columns
from stages.lib.data.data_report import data_card, headline, token_histogram, write_reports
from stages.lib.data.ledger import Ledger
from stages.lib.data.near_duplicates import KnownQuestions
from stages.lib.data.rendered_rows import RowRenderer
from stages.lib.data.rows import name, version
from stages.lib.every_stage.entry import run
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_jsonl
from stages.lib.models.chat_template import UNFIT
from stages.lib.schema.choices import Overlap
from stages.lib.schema.data import PrepareUltrachat

SOURCE = Path("data/raw/ultrachat")
BASE = Path("models/base")
OUT = Path("data/prepared/ultrachat")
METRIC = Path("metrics/data_ultrachat.json")
FUNNEL = Path("metrics/data_ultrachat_funnel.csv")
TOKENS = Path("metrics/data_ultrachat_tokens.csv")


def prepare_ultrachat(section: PrepareUltrachat, root: Path) -> dict[str, Any]:
    renderer, held_out = RowRenderer(BASE, section.system_messages), HeldOut({}, KnownQuestions(), [])
    lengths = array("I")
    splits: dict[str, dict[str, Any]] = {}
    sources: list[dict[str, Any]] = []
    with published(root / OUT) as out:
        out.mkdir()
        with Ledger(out, STEPS) as ledger:
            for split, sets in {"evaluation": section.evaluation, "train": section.train}.items():
                taken, counts = Taken(), {}
                for kind, rows in sets.items():
                    before = ledger.read
                    reading = Reading(named_columns(rows.columns), f"prepare_ultrachat.{split}.{kind}.columns")
                    rendered = renderer.rendered(conversations(rows, reading, taken, ledger), ledger)
                    fitting = short_enough(rendered, section.max_tokens, renderer, lengths, ledger)
                    kept = held_out.remember(fitting) if split == "evaluation" else held_out.keep_apart(fitting, ledger)
                    records = (row.record() | {"set": kind} for row in kept)
                    counts[kind] = write_jsonl(out / f"{split}.jsonl", records, append=True)
                    sources.append({"name": name(rows), "rows": ledger.read - before, "version": version(rows),
                                    "read_as": reading.summary(USUAL)})  # fmt: skip
                splits[split] = {"rows": sum(counts.values()), "sets": counts}
            if section.overlap is Overlap.error:
                held_out.refuse_overlap()
            defects = (*UNREADABLE, *MALFORMED, *UNFIT)
            ledger.refuse_many(defects, section.max_reject_rate, "prepare_ultrachat.max_reject_rate")
            ledger.refuse_nothing_left(splits["train"]["rows"], "Choose other rows in prepare_ultrachat.train")
            balance = ledger.balance(sum(part["rows"] for part in splits.values()))
            report = {**balance, "splits": splits, "sources": sources}
            histogram = token_histogram(lengths, section.max_tokens)
            card = data_card("Conversations", report, ledger, histogram, caveats(section))
            write_reports(out, (root / METRIC, root / FUNNEL, root / TOKENS), report, ledger, histogram, card)
    print(headline(OUT, report))
    return {"in": report["in"], "kept": report["kept"], "splits": splits}


def caveats(section: PrepareUltrachat) -> list[str]:
    """What a reader of the card should know."""
    notes = []
    if any("ultrachat" in rows.id for rows in section.train.values()):
        notes.append(
            "UltraChat is text that ChatGPT wrote, under an MIT licence card; its answers were checked by nobody."
        )
    if not section.max_tokens:
        notes.append("Long conversations are whole here; SFT truncates them at its own max_length.")
    return notes


if __name__ == "__main__":
    run(prepare_ultrachat)
