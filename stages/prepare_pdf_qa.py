"""Questions and answers from your PDFs and files, checked, without doubles, split by fact.

Reads   JSON Lines of instruction and output, with fact_id and key where known; PDFs; models/base's tokenizer
Writes  data/prepared/pdf_qa: train.jsonl, seen.jsonl (trained facts, unseen wording), unseen.jsonl (held-out facts),
        rejects.jsonl, conflicts.jsonl, pages.jsonl, data_report.json, DATA_CARD.md; metrics/data_pdf_qa*
Run     python -m stages.prepare_pdf_qa
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages.lib.answer_models import cache_home, make_ask
from stages.lib.data_report import data_card, token_histogram, write_reports
from stages.lib.entry import run
from stages.lib.errors import UserError
from stages.lib.jsonl_reader import Line, Rejected, read_lines
from stages.lib.ledger import Ledger
from stages.lib.lineage import file_sha256
from stages.lib.pdf_questions import FROM_PDF, PdfReport, pdf_rows, summary
from stages.lib.publish import published
from stages.lib.qa_rows import UNCLEAR, UNREADABLE, Question, admit
from stages.lib.qa_store import QuestionStore
from stages.lib.records import write_jsonl
from stages.lib.rewording import add_rewordings
from stages.lib.schema import Backend, Conflicts, PersonalData, PreparePdfQa, Rewording
from stages.lib.token_lengths import TokenCounter

SOURCE = Path("data/raw/pdf_qa")
BASE = Path("models/base")
OUT = Path("data/prepared/pdf_qa")
METRIC = Path("metrics/data_pdf_qa.json")
FUNNEL = Path("metrics/data_pdf_qa_funnel.csv")
TOKENS = Path("metrics/data_pdf_qa_tokens.csv")

GENERATED_FIELDS = {"question_field": "instruction", "answer_field": "output"}
SPLITS = ("train", "seen", "unseen")
STEPS = {
    "grounded": FROM_PDF,
    "readable": UNREADABLE,
    "clear": UNCLEAR,
    "short enough": ("too_long_tokens",),
    "no doubles": ("exact_duplicate", "near_duplicate"),
    "no conflicts": ("conflict",),
}


def prepare_pdf_qa(section: PreparePdfQa, root: Path) -> dict[str, Any]:
    counter, pdf_report = TokenCounter(BASE), PdfReport()
    files, pdfs = questions_and_pdfs(section)
    ask = None if section.generate.backend is Backend.rules else make_ask(section.generate, cache_home())
    with published(root / OUT) as out, TemporaryDirectory() as scratch:
        out.mkdir()
        with Ledger(out, STEPS) as ledger, closing(QuestionStore(Path(scratch) / "rows.sqlite")) as store:
            sources = []
            for path in files:
                before = ledger.read
                store_clear_rows(read_lines(path), section, counter, ledger, store)
                sources.append({"name": path.name, "rows": ledger.read - before, "version": file_sha256(path)})
            # before the PDFs: a pair that a page doesn't ground says nothing about the files
            ledger.refuse_many((*UNREADABLE, *UNCLEAR), section.max_reject_rate, "prepare_pdf_qa.max_reject_rate")
            for path in pdfs:
                before = ledger.read
                rows = pdf_rows(path, section.limits, section.generate, ask, section.on_bad_pdf, pdf_report)
                store_clear_rows(rows, replace(section, **GENERATED_FIELDS), counter, ledger, store)
                sources.append({"name": path.name, "rows": ledger.read - before, "version": file_sha256(path)})
            between_facts = drop_doubles(store, section.conflicts, out)
            for place, reason, detail, record in store.dropped():
                ledger.reject(Rejected(place, reason, detail, record))
            store.split(section.held_out_facts, section.held_out_wordings)
            refuse_leaks(store, between_facts)
            kept = sum(write_jsonl(out / f"{name}.jsonl", store.records(name)) for name in SPLITS)
            splits = {name: store.counts(name) for name in SPLITS}
            report = {**ledger.balance(kept), "splits": splits, "sources": sources, "pdf": summary(pdf_report)}
            if section.reword.backend is not Rewording.none:
                translate = ask if section.reword.backend is Rewording.back_translation else None
                report["reworded"] = add_rewordings(out, ["seen", "unseen"], section.reword.wordings, translate)
            write_jsonl(out / "pages.jsonl", pdf_report.pages)
            histogram = token_histogram(store.token_counts(), section.max_tokens)
            card = data_card("Questions and answers", report, ledger, histogram, beware(report))
            write_reports(out, (root / METRIC, root / FUNNEL, root / TOKENS), report, ledger, histogram, card)
    return {"in": report["in"], "kept": kept, "splits": splits}


def questions_and_pdfs(section: PreparePdfQa) -> tuple[list[Path], list[Path]]:
    """The JSONL files and the PDFs to read. Raises UserError if there are none."""
    files = files_in(section.files, ".jsonl", "prepare_pdf_qa.files")
    pdfs = files_in(section.pdfs, ".pdf", "prepare_pdf_qa.pdfs")
    if not files and not pdfs:
        places = ", ".join([*section.files, *section.pdfs])
        raise UserError(f"found no *.jsonl and no *.pdf in {places}; needed at least one. Put yours there")
    return files, pdfs


def files_in(paths: list[str], suffix: str, setting: str) -> list[Path]:
    """The files that `paths` name, and those with `suffix` in the folders that it names, in order.

    Raises UserError for a path that isn't there.
    """
    files = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{setting}: found no {path}; needed a file, or a folder of *{suffix}")
        inside = (file for file in path.iterdir() if file.suffix.lower() == suffix) if path.is_dir() else [path]
        files += sorted(inside)
    return files


def store_clear_rows(
    lines: Iterable[Line | Rejected], section: PreparePdfQa, counter: TokenCounter, ledger: Ledger, store: QuestionStore
) -> None:
    """Put what can be read, is clear and short enough into the store, and everything else into the ledger."""
    questions = clear_questions(lines, section, ledger)
    for row, lengths in counter.measured(questions, lambda row: [row.question, row.answer]):
        if sum(lengths) > section.max_tokens:
            detail = f"{sum(lengths)} tokens, at most {section.max_tokens} (prepare_pdf_qa.max_tokens)"
            ledger.reject(Rejected(row.where, "too_long_tokens", detail, row.question + "\n" + row.answer))
            continue
        ledger.mended.update(row.mended)
        ledger.reported.update(f"pii: {kind}" for kind in row.personal_data)
        store.add(row, sum(lengths))


def clear_questions(lines: Iterable[Line | Rejected], section: PreparePdfQa, ledger: Ledger) -> Iterator[Question]:
    """Yield the rows that can be read and understood; count all."""
    drop_personal_data = section.personal_data is PersonalData.drop
    for line in lines:
        ledger.read += 1
        row: Question | Rejected = (
            line
            if isinstance(line, Rejected)
            else admit(line, section.question_field, section.answer_field, drop_personal_data)
        )
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


def beware(report: dict[str, Any]) -> list[str]:
    """What a reader of the card should know before trusting a score on this data."""
    notes = ["The licence of the sources is not known to this stage: ask whoever gave you the files."]
    pdf = report["pdf"]
    notes += [f"{page['file']} was left out: {page['reason']}: {page['detail']}." for page in pdf["refused"]]
    if pdf["pages"]:
        flagged = ", ".join(f"{count} {name}" for name, count in pdf["problems"].items()) or "none"
        notes.append(f"{pdf['pages']} pages of PDFs were read; with problems: {flagged} (`pages.jsonl` says which). "
                     "Questions come from headings, FAQ sections and tables alone unless a model was asked; "
                     "`python -m tools.review` shows them to you one by one.")  # fmt: skip
    if any(reason.startswith("pii") for reason in report["reported"]):
        notes.append("Personal data may be in the kept rows (counted above, by patterns: the count misses some and may "
                     "hold false ones). `prepare_pdf_qa.personal_data=drop` removes those rows.")  # fmt: skip
    if report["splits"]["seen"]["rows"] == 0:
        notes.append("No fact has two wordings, so there is no `seen` split: only `unseen`, held-out facts, which "
                     "measures made-up answers and not what was learned. Give rows of one fact one fact_id.")  # fmt: skip
    return notes


if __name__ == "__main__":
    run(prepare_pdf_qa)
