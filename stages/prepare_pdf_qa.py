"""Questions and answers from your PDFs and files, checked, without duplicates, split by fact; raw text, if asked for.

Reads   rows of instruction and output in any shape and format of stages/lib/data, with fact_id and key where known;
        PDFs; with raw_text text files and rows of text, too; what people decided about them (data/raw/pdf_qa/review);
        models/base's tokenizer and chat template
Writes  data/prepared/pdf_qa: train.jsonl, seen.jsonl (trained facts, unseen wording), unseen.jsonl (held-out facts),
        unanswerable.jsonl (held-out questions to refuse), rejects.jsonl, conflicts.jsonl, pages.jsonl,
        data_report.json, DATA_CARD.md; metrics/data_pdf_qa*; with raw_text text.jsonl and text_rejects.jsonl
Run     python -m stages.prepare_pdf_qa
"""

import os
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages.lib.asking.answer_models import Ask, cache_home, make_ask
from stages.lib.data.columns import Reading
from stages.lib.data.data_report import data_card, headline, token_histogram, write_reports
from stages.lib.data.file_formats import read_rows
from stages.lib.data.ledger import Ledger
from stages.lib.data.rendered_rows import RowRenderer
from stages.lib.data.shapes import expanded
from stages.lib.every_stage.entry import run
from stages.lib.every_stage.foreign_text import shown
from stages.lib.every_stage.lineage import file_sha256
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_jsonl
from stages.lib.models.chat_template import UNFIT
from stages.lib.pdf_qa.pdf_pages import read_ahead
from stages.lib.pdf_qa.pdf_questions import PdfReport, by_document, pdf_rows, summary
from stages.lib.pdf_qa.qa_files import questions_and_pdfs, readings_of, text_files, unread_files
from stages.lib.pdf_qa.qa_gates import caveats, drop_duplicates, refuse_leaks, steps_of, store_clear_rows
from stages.lib.pdf_qa.qa_rows import UNCLEAR, UNREADABLE, USUAL
from stages.lib.pdf_qa.qa_store import QuestionStore
from stages.lib.pdf_qa.rating import Rate, make_rate
from stages.lib.pdf_qa.review_decisions import FILE as DECISIONS
from stages.lib.pdf_qa.review_decisions import Review, told
from stages.lib.pdf_qa.rewording import add_rewordings
from stages.lib.pdf_qa.text_store import opened_store, text_card, text_funnel, text_headline
from stages.lib.schema.choices import Backend, JudgeBackend, Rewording
from stages.lib.schema.data import PreparePdfQa

SOURCE = Path("data/raw/pdf_qa")
BASE = Path("models/base")
OUT = Path("data/prepared/pdf_qa")
METRIC = Path("metrics/data_pdf_qa.json")
FUNNEL = Path("metrics/data_pdf_qa_funnel.csv")
TOKENS = Path("metrics/data_pdf_qa_tokens.csv")

NOTHING_LEFT = (
    "Fix these rows or add others. Of a PDF only headings that ask, FAQs, tables and articles become questions, and "
    "prose doesn't, unless prepare_pdf_qa.generate.backend is a model; prepare_pdf_qa.raw_text=true trains on prose as "
    "it is"
)
SPLITS = ("train", "seen", "unseen", "unanswerable")


def prepare_pdf_qa(section: PreparePdfQa, root: Path) -> dict[str, Any]:
    renderer, pdf_report = RowRenderer(BASE), PdfReport()
    files, pdfs = questions_and_pdfs(section)
    plain, review = text_files(section), Review.of(DECISIONS)
    readings = {**readings_of(files, section.columns), **readings_of(pdfs, {}), **readings_of(plain, {})}
    ask, rate = question_maker(section), rating(section)
    with published(root / OUT) as out, TemporaryDirectory() as scratch:
        out.mkdir()
        with (
            Ledger(out, steps_of(section)) as ledger,
            closing(QuestionStore(Path(scratch) / "rows.sqlite")) as store,
            opened_store(Path(scratch) / "text.sqlite", out, section, renderer, BASE) as texts,
        ):
            sources = []
            for path in files:
                before, reading = ledger.read, readings[path]
                lines = expanded(read_rows(path))
                asked = texts.without_texts(lines, reading) if texts else lines
                store_clear_rows(asked, reading, section, renderer, ledger, store, review)
                sources.append(source_of(path, reading, ledger.read - before))
            # before the PDFs: a pair that a page doesn't ground says nothing about the files
            defects = (*UNREADABLE, *UNCLEAR, *UNFIT)
            ledger.refuse_many(defects, section.max_reject_rate, "prepare_pdf_qa.max_reject_rate")
            for path, pages_of in read_ahead(pdfs, section.limits):
                before, reading = ledger.read, readings[path]
                rows = pdf_rows(path, pages_of, reading.label, section, ask, rate, texts, pdf_report)
                store_clear_rows(rows, reading, section, renderer, ledger, store, review)
                sources.append(source_of(path, reading, ledger.read - before))
            if texts:
                texts.add_files(plain, readings)
                sources += [source_of(path, readings[path], 0) for path in plain]
            told_apart = store.tell_files_apart()
            between_facts = drop_duplicates(store, section.conflicts, out)
            for dropped in store.dropped():
                ledger.reject(dropped)
            store.split(section.held_out_facts, section.held_out_wordings)
            refuse_leaks(store, between_facts)
            kept = sum(write_jsonl(out / f"{name}.jsonl", store.records(name)) for name in SPLITS)
            splits = {name: store.counts(name) for name in SPLITS}
            unread = unread_files(section, [*files, *plain, *pdfs])
            report = {**ledger.balance(kept), "splits": splits, "sources": sources, "told_apart": told_apart,
                      "pdf": summary(pdf_report), "unread": unread}  # fmt: skip
            trained = splits["train"]["rows"] + (texts.finish(store.records("unseen"), report) if texts else 0)
            documents = by_document(pdf_report, texts.rows_of if texts else None)
            ledger.refuse_nothing_left(trained, "\n".join([*documents, NOTHING_LEFT]))
            if section.reword.backend is not Rewording.none:
                translate = ask if section.reword.backend is Rewording.back_translation else None
                fits = partial(renderer.fits, section.max_tokens)
                wordings = section.reword.wordings
                report["reworded"] = add_rewordings(out, SPLITS[1:], wordings, translate, fits, review)
            if review.decisions or review.damaged:
                report["review"] = review.summary(ledger.overruled)
            write_jsonl(out / "pages.jsonl", pdf_report.pages)
            histogram = token_histogram(store.token_counts(), section.max_tokens)
            more = text_card(report, texts.ledger) if texts else []
            card = data_card("Questions and answers", report, ledger, histogram, caveats(report, section), more)
            metrics = (root / METRIC, root / FUNNEL, root / TOKENS)
            bars = text_funnel(texts.ledger) if texts else []
            write_reports(out, metrics, report, ledger, histogram, card, bars)
    reviewed = told(report.get("review", {}))
    print(*map(shown, [*documents, *reviewed, *text_headline(report)]), headline(OUT, report), sep="\n")
    return {"in": report["in"], "kept": kept, "splits": splits}


def question_maker(section: PreparePdfQa) -> Ask | None:
    """The model that writes questions, if one is asked for."""
    if section.generate.backend is Backend.rules:
        return None
    return make_ask(section.generate, cache_home(), "prepare_pdf_qa.generate")


def rating(section: PreparePdfQa) -> Rate | None:
    """The model that rates what was made from PDFs, if one is asked for."""
    if section.rate.backend is JudgeBackend.none:
        return None
    return make_rate(make_ask(section.rate, cache_home(), "prepare_pdf_qa.rate"), section.rate.least)


def source_of(path: Path, reading: Reading, rows: int) -> dict[str, Any]:
    """A file for the report: its name, its rows, its checksum, and what its columns were read as."""
    version = file_sha256(path) if os.access(path, os.R_OK) else "unreadable"
    return {"name": reading.label, "rows": rows, "version": version, "read_as": reading.summary(USUAL)}


if __name__ == "__main__":
    run(prepare_pdf_qa)
