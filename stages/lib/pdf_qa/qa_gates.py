"""The gates of Q&A in order: rows one by one, duplicates and conflicts among all, leaks between the splits."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stages.lib.data.columns import Reading
from stages.lib.data.file_formats import ENDINGS
from stages.lib.data.jsonl_reader import Line, Rejected
from stages.lib.data.ledger import Ledger
from stages.lib.data.rendered_rows import RowRenderer
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import write_jsonl
from stages.lib.models.chat_template import UNFIT
from stages.lib.pdf_qa.pdf_questions import FROM_PDF
from stages.lib.pdf_qa.qa_rows import NO_ANSWER, UNCLEAR, UNREADABLE, Question, admit
from stages.lib.pdf_qa.qa_store import QuestionStore
from stages.lib.pdf_qa.rating import RATED
from stages.lib.pdf_qa.review_decisions import LEFT_OUT, Review, told
from stages.lib.schema.choices import Conflicts, JudgeBackend, PersonalData
from stages.lib.schema.data import PreparePdfQa

STEPS = {
    "grounded": FROM_PDF,
    "readable": (*UNREADABLE, *NO_ANSWER),
    "clear": UNCLEAR,
    "not rejected by people": LEFT_OUT,
    "rendered": UNFIT,
    "short enough": ("too_long_tokens",),
    "no duplicates": ("exact_duplicate", "near_duplicate"),
    "no conflicts": ("conflict",),
}
"""The funnel's steps, and the reasons that each drops rows for."""


def steps_of(section: PreparePdfQa) -> dict[str, tuple[str, ...]]:
    """The funnel's steps, with that of a rating where one is asked for."""
    if section.rate.backend is JudgeBackend.none:
        return STEPS
    grounded, *others = STEPS.items()
    return dict([grounded, ("rated", RATED), *others])


def store_clear_rows(
    lines: Iterable[Line | Rejected],
    reading: Reading,
    section: PreparePdfQa,
    renderer: RowRenderer,
    ledger: Ledger,
    store: QuestionStore,
    review: Review,
) -> None:
    """Put what can be read, is clear and short enough into the store, and everything else into the ledger."""
    questions = clear_questions(lines, reading, section, ledger, review)
    for rendered in renderer.rendered(questions, ledger):
        row, (tokens,) = rendered.row, rendered.tokens
        if tokens > section.max_tokens:
            detail = f"{tokens} tokens, at most {section.max_tokens} (prepare_pdf_qa.max_tokens)"
            ledger.reject(row.dropped("too_long_tokens", detail))
            continue
        ledger.fixed.update(row.fixed)
        ledger.reported.update(f"pii: {kind}" for kind in row.personal_data)
        store.add(row, tokens)


def clear_questions(
    lines: Iterable[Line | Rejected], reading: Reading, section: PreparePdfQa, ledger: Ledger, review: Review
) -> Iterator[Question]:
    """Yield the rows that can be read and understood, and those that people accepted; count all."""
    for line in lines:
        ledger.read += 1
        row = read_again(line, reading) if isinstance(line, Rejected) else admit(line, reading)
        if isinstance(row, Rejected):
            ledger.reject(row)
            continue
        verdict = review.verdict((row.id, f"{row.file}:{row.id}"), row.question, row.answer)
        if verdict.decision:
            review.applied[verdict.decision] += 1
        if verdict.decision in ("accept", "edit"):
            row = row.decided(verdict.decision, verdict.question, verdict.answer)
        drop = row.gate
        if not drop and verdict.decision == "reject":
            drop = row.dropped("rejected_in_review", verdict.detail)
        elif not drop and section.only_reviewed and not row.review:
            drop = row.dropped("not_reviewed", "nobody accepted it, as prepare_pdf_qa.only_reviewed asks")
        if not drop and row.personal_data and section.personal_data is PersonalData.drop:
            drop = row.dropped("pii", ", ".join(row.personal_data))
        if drop:
            ledger.reject(drop)
        else:
            yield row


def read_again(dropped: Rejected, reading: Reading) -> Question | Rejected:
    """A question that was dropped when it was made, which a person may let in all the same."""
    row = admit(Line(dropped.where, dropped.row), reading) if dropped.row else dropped
    if isinstance(row, Rejected):
        return dropped
    row.gate = row.dropped(dropped.reason, dropped.detail, dropped.text)
    return row


def drop_duplicates(store: QuestionStore, policy: Conflicts, out: Path) -> list[tuple[int, int]]:
    """Drop exact duplicates, rows in conflict by `policy`, and near-duplicates; list the conflicts.

    An answer that a person accepted is right, whatever others say; two such are a conflict as any other.

    Returns the near-duplicates that claim to be two facts. Raises UserError naming the conflicts if `policy` is error.
    """
    store.drop_exact_duplicates()
    conflicts = []
    for group in store.conflicts():
        if len(accepted := [row for row in group if row.pop("review")]) == 1:
            for row in group:
                if row is not accepted[0]:
                    store.drop(row["n"], "conflict", f"in review another answer was accepted: {accepted[0]['where']}")
            continue
        conflicts += group
        keep = {Conflicts.keep_first: group[0]["n"], Conflicts.keep_latest: group[-1]["n"]}.get(policy)
        places = ", ".join(row["where"] for row in group)
        for row in group:
            if row["n"] != keep:
                store.drop(row["n"], "conflict", f"one question, {len(group)} answers: {places}")
    if conflicts and policy is Conflicts.error:
        raise UserError(f"{len(conflicts)} rows answer one question differently: "
                        f"{', '.join(row['where'] for row in conflicts[:6])}. Fix them, or choose "
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
                        "Remove the duplicates or give them one fact_id")  # fmt: skip


def caveats(report: dict[str, Any], section: PreparePdfQa) -> list[str]:
    """What a reader of the card should know before trusting a score on this data."""
    notes = ["The licence of the sources is not known to this stage: ask whoever gave you the files."]
    notes += told(report.get("review", {}))
    pdf = report["pdf"]
    if too_long := report["dropped"].get("too_long_tokens"):
        notes.append(f"{too_long} of {report['in']} rows are longer than prepare_pdf_qa.max_tokens = "
                     f"{section.max_tokens} tokens of the base model and were dropped: SFT learns whole answers, since "
                     "a truncated one teaches not to stop. The limit follows sft.max_length; a model whose tokenizer "
                     "knows the language needs fewer tokens.")  # fmt: skip
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
                     "`graft review` shows them to you one by one.")  # fmt: skip
    if any(reason.startswith("pii") for reason in report["reported"]):
        notes.append("Personal data may be in the kept rows (counted above, by patterns: the count misses some and may "
                     "hold false ones). `prepare_pdf_qa.personal_data=drop` removes those rows.")  # fmt: skip
    if report["told_apart"]:
        notes.append(f"{report['told_apart']} fact_ids are in more than one file: each file's rows are facts of "
                     "their own, named by file and fact_id. Put the rows of one fact into one file.")  # fmt: skip
    if section.held_out_wordings and report["splits"]["seen"]["rows"] == 0:
        notes.append("No fact has two wordings, so there is no `seen` split: only `unseen`, held-out facts, which "
                     "measures made-up answers, not learning. Give the rows of one fact one fact_id.")  # fmt: skip
    return notes
