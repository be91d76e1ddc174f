"""Questions and answers from your PDFs and files, checked, without doubles, split by fact.

Reads   rows of instruction and output in any shape and format of stages/lib/data, with fact_id and key where known;
        PDFs; models/base's tokenizer and chat template
Writes  data/prepared/pdf_qa: train.jsonl, seen.jsonl (trained facts, unseen wording), unseen.jsonl (held-out facts),
        rejects.jsonl, conflicts.jsonl, pages.jsonl, data_report.json, DATA_CARD.md; metrics/data_pdf_qa*
Run     python -m stages.prepare_pdf_qa
"""

import os
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages.lib.data.columns import Reading
from stages.lib.data.data_report import data_card, headline, token_histogram, write_reports
from stages.lib.data.file_formats import read_rows
from stages.lib.data.jsonl_reader import Rejected
from stages.lib.data.ledger import Ledger
from stages.lib.data.rendered_rows import RowRenderer
from stages.lib.data.shapes import expanded
from stages.lib.entry import run
from stages.lib.foreign_text import shown
from stages.lib.lineage import file_sha256
from stages.lib.models.answer_models import cache_home, make_ask
from stages.lib.models.chat_template import UNFIT
from stages.lib.pdf_qa.pdf_questions import PdfReport, by_document, pdf_rows, summary
from stages.lib.pdf_qa.qa_files import questions_and_pdfs, readings_of, unread_files
from stages.lib.pdf_qa.qa_gates import STEPS, beware, drop_doubles, refuse_leaks, store_clear_rows
from stages.lib.pdf_qa.qa_rows import UNCLEAR, UNREADABLE, USUAL
from stages.lib.pdf_qa.qa_store import QuestionStore
from stages.lib.pdf_qa.rewording import add_rewordings
from stages.lib.publish import published
from stages.lib.records import write_jsonl
from stages.lib.schema.choices import Backend, Rewording
from stages.lib.schema.data import PreparePdfQa

SOURCE = Path("data/raw/pdf_qa")
BASE = Path("models/base")
OUT = Path("data/prepared/pdf_qa")
METRIC = Path("metrics/data_pdf_qa.json")
FUNNEL = Path("metrics/data_pdf_qa_funnel.csv")
TOKENS = Path("metrics/data_pdf_qa_tokens.csv")

NOTHING_LEFT = (
    "Mend these rows or add others. Of a PDF only headings that ask, FAQs, tables and articles become questions, and "
    "prose doesn't, unless prepare_pdf_qa.generate.backend is a model"
)
SPLITS = ("train", "seen", "unseen")


def prepare_pdf_qa(section: PreparePdfQa, root: Path) -> dict[str, Any]:
    renderer, pdf_report = RowRenderer(BASE), PdfReport()
    files, pdfs = questions_and_pdfs(section)
    readings = {**readings_of(files, section.columns), **readings_of(pdfs, {})}
    ask = None if section.generate.backend is Backend.rules else make_ask(section.generate, cache_home())
    with published(root / OUT) as out, TemporaryDirectory() as scratch:
        out.mkdir()
        with Ledger(out, STEPS) as ledger, closing(QuestionStore(Path(scratch) / "rows.sqlite")) as store:
            sources = []
            for path in files:
                before, reading = ledger.read, readings[path]
                store_clear_rows(expanded(read_rows(path)), reading, section, renderer, ledger, store)
                sources.append(source_of(path, reading, ledger.read - before))
            # before the PDFs: a pair that a page doesn't ground says nothing about the files
            defects = (*UNREADABLE, *UNCLEAR, *UNFIT)
            ledger.refuse_many(defects, section.max_reject_rate, "prepare_pdf_qa.max_reject_rate")
            for path in pdfs:
                before, reading = ledger.read, readings[path]
                rows = pdf_rows(path, reading.label, section, ask, pdf_report)
                store_clear_rows(rows, reading, section, renderer, ledger, store)
                sources.append(source_of(path, reading, ledger.read - before))
            told_apart = store.tell_files_apart()
            between_facts = drop_doubles(store, section.conflicts, out)
            for place, reason, detail, record in store.dropped():
                ledger.reject(Rejected(place, reason, detail, record))
            store.split(section.held_out_facts, section.held_out_wordings)
            refuse_leaks(store, between_facts)
            kept = sum(write_jsonl(out / f"{name}.jsonl", store.records(name)) for name in SPLITS)
            splits = {name: store.counts(name) for name in SPLITS}
            documents = by_document(pdf_report)
            ledger.refuse_nothing_left(splits["train"]["rows"], "\n".join([*documents, NOTHING_LEFT]))
            report = {**ledger.balance(kept), "splits": splits, "sources": sources, "told_apart": told_apart,
                      "pdf": summary(pdf_report), "unread": unread_files(section, [*files, *pdfs])}  # fmt: skip
            if section.reword.backend is not Rewording.none:
                translate = ask if section.reword.backend is Rewording.back_translation else None
                fits = partial(renderer.fits, section.max_tokens)
                wordings = section.reword.wordings
                report["reworded"] = add_rewordings(out, ["seen", "unseen"], wordings, translate, fits)
            write_jsonl(out / "pages.jsonl", pdf_report.pages)
            histogram = token_histogram(store.token_counts(), section.max_tokens)
            card = data_card("Questions and answers", report, ledger, histogram, beware(report, section))
            write_reports(out, (root / METRIC, root / FUNNEL, root / TOKENS), report, ledger, histogram, card)
    print(*map(shown, documents), headline(OUT, report), sep="\n")
    return {"in": report["in"], "kept": kept, "splits": splits}


def source_of(path: Path, reading: Reading, rows: int) -> dict[str, Any]:
    """A file for the report: its name, its rows, its checksum, and what its columns were read as."""
    version = file_sha256(path) if os.access(path, os.R_OK) else "unreadable"
    return {"name": reading.label, "rows": rows, "version": version, "read_as": reading.summary(USUAL)}


if __name__ == "__main__":
    run(prepare_pdf_qa)
