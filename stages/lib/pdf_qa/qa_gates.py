"""The gates of Q&A in order: rows one by one, then doubles and conflicts among all, then leaks between the splits."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stages.lib.data.columns import Reading
from stages.lib.data.file_formats import ENDINGS
from stages.lib.data.jsonl_reader import Line, Rejected
from stages.lib.data.ledger import Ledger
from stages.lib.data.rendered_rows import RowRenderer
from stages.lib.errors import UserError
from stages.lib.models.chat_template import UNFIT
from stages.lib.pdf_qa.pdf_questions import FROM_PDF
from stages.lib.pdf_qa.qa_rows import NO_ANSWER, UNCLEAR, UNREADABLE, Question, admit
from stages.lib.pdf_qa.qa_store import QuestionStore
from stages.lib.records import write_jsonl
from stages.lib.schema.choices import Conflicts, PersonalData
from stages.lib.schema.data import PreparePdfQa

STEPS = {
    "grounded": FROM_PDF,
    "readable": (*UNREADABLE, *NO_ANSWER),
    "clear": UNCLEAR,
    "rendered": UNFIT,
    "short enough": ("too_long_tokens",),
    "no doubles": ("exact_duplicate", "near_duplicate"),
    "no conflicts": ("conflict",),
}
"""The funnel's steps, and the reasons that each drops rows for."""


def store_clear_rows(
    lines: Iterable[Line | Rejected],
    reading: Reading,
    section: PreparePdfQa,
    renderer: RowRenderer,
    ledger: Ledger,
    store: QuestionStore,
) -> None:
    """Put what can be read, is clear and short enough into the store, and everything else into the ledger."""
    questions = clear_questions(lines, reading, section, ledger)
    for rendered in renderer.rendered(questions, ledger):
        row, (tokens,) = rendered.row, rendered.tokens
        if tokens > section.max_tokens:
            detail = f"{tokens} tokens, at most {section.max_tokens} (prepare_pdf_qa.max_tokens)"
            ledger.reject(Rejected(row.where, "too_long_tokens", detail, row.question + "\n" + row.answer))
            continue
        ledger.mended.update(row.mended)
        ledger.reported.update(f"pii: {kind}" for kind in row.personal_data)
        store.add(row, tokens)


def clear_questions(
    lines: Iterable[Line | Rejected], reading: Reading, section: PreparePdfQa, ledger: Ledger
) -> Iterator[Question]:
    """Yield the rows that can be read and understood; count all."""
    drop_personal_data = section.personal_data is PersonalData.drop
    for line in lines:
        ledger.read += 1
        row = line if isinstance(line, Rejected) else admit(line, reading, drop_personal_data)
        if isinstance(row, Rejected):
            ledger.reject(row)
        else:
            yield row


def drop_doubles(store: QuestionStore, policy: Conflicts, out: Path) -> list[tuple[int, int]]:
    """Drop exact duplicates, rows in conflict by `policy`, and near-duplicates; list the conflicts.

    Returns the near-duplicates that claim to be two facts. Raises UserError naming the conflicts if `policy` is error.
    """
    store.drop_exact_duplicates()
    conflicts = []
    for group in store.conflicts():
        conflicts += group
        keep = {Conflicts.keep_first: group[0]["n"], Conflicts.keep_latest: group[-1]["n"]}.get(policy)
        places = ", ".join(row["where"] for row in group)
        for row in group:
            if row["n"] != keep:
                store.drop(row["n"], "conflict", f"one question, {len(group)} answers: {places}")
    if conflicts and policy is Conflicts.error:
        raise UserError(f"{len(conflicts)} rows answer one question differently: "
                        f"{', '.join(row['where'] for row in conflicts[:6])}. Mend them, or choose "
                        "prepare_pdf_qa.conflicts = drop_all, keep_first or keep_latest")  # fmt: skip
    write_jsonl(out / "conflicts.jsonl", ({k: v for k, v in row.items() if k != "n"} for row in conflicts))
    return store.drop_near_duplicates()


def refuse_leaks(store: QuestionStore, between_facts: list[tuple[int, int]]) -> None:
    """Raise UserError naming evaluation rows that nearly are training rows under another fact_id.

    `between_facts` are all pairs that could be: equal questions are one row by now, whatever their fact_id.
    """
    leaks = []
    for pair in between_facts:
        (split, place, question), (other_split, other_place, other) = store.splits_of(pair)
        if (split == "train") != (other_split == "train"):
            leaks.append(f"{place} ({split}: {question}) is nearly {other_place} ({other_split}: {other})")
    if leaks:
        raise UserError(f"{len(leaks)} evaluation questions are trained on: {'; '.join(leaks[:5])}. "
                        "Remove the doubles or give them one fact_id")  # fmt: skip


def beware(report: dict[str, Any], section: PreparePdfQa) -> list[str]:
    """What a reader of the card should know before trusting a score on this data."""
    notes = ["The licence of the sources is not known to this stage: ask whoever gave you the files."]
    pdf = report["pdf"]
    if too_long := report["dropped"].get("too_long_tokens"):
        notes.append(f"{too_long} of {report['in']} rows are longer than prepare_pdf_qa.max_tokens = "
                     f"{section.max_tokens} tokens of the base model and were dropped: SFT learns whole answers, since "
                     "a cut one teaches not to stop. The limit follows sft.max_length; a model whose tokenizer knows "
                     "the language needs fewer tokens.")  # fmt: skip
    neither = f"it is neither a PDF nor rows in a format that is read ({', '.join(ENDINGS)})"
    notes += [
        f"{path} was not read: {'it leads to a folder elsewhere; copy it' if os.path.isdir(path) else neither}."
        for path in report["unread"]
    ]
    refused = {page["file"] for page in pdf["refused"]}
    notes += [f"{source['name']} gave no row." for source in report["sources"]
              if not source["rows"] and not source.get("text_rows") and source["name"] not in refused]  # fmt: skip
    notes += [f"{page['file']} was left out: {page['reason']}: {page['detail']}." for page in pdf["refused"]]
    notes += [f"{name} has no %%EOF at its end: it was read, but pages may be missing." for name in pdf["cut"]]
    if pdf["pages"]:
        flagged = ", ".join(f"{count} {name}" for name, count in pdf["problems"].items()) or "none"
        notes.append(f"{pdf['pages']} pages of PDFs were read; with problems: {flagged} (`pages.jsonl` says which). "
                     "Questions come from headings that ask, FAQs, tables and articles unless a model was asked; "
                     "`python -m tools.review` shows them to you one by one.")  # fmt: skip
    if any(reason.startswith("pii") for reason in report["reported"]):
        notes.append("Personal data may be in the kept rows (counted above, by patterns: the count misses some and may "
                     "hold false ones). `prepare_pdf_qa.personal_data=drop` removes those rows.")  # fmt: skip
    if report["told_apart"]:
        notes.append(f"{report['told_apart']} fact_ids stand in more than one file: each file's rows are facts of "
                     "their own, named by file and fact_id. Put the rows of one fact into one file.")  # fmt: skip
    if section.held_out_wordings and report["splits"]["seen"]["rows"] == 0:
        notes.append("No fact has two wordings, so there is no `seen` split: only `unseen`, held-out facts, which "
                     "measures made-up answers, not learning. Give the rows of one fact one fact_id.")  # fmt: skip
    return notes
