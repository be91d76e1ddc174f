"""From PDFs to rows of Q&A: pages, the page gate, questions by rules and a model, grounding, a rating, provenance.

Every row's source: {"file": "guide.pdf", "sha256": "3f…", "page": 3, "span": [120, 164], "by": "rules"}
With a model, too: "by": "openai", "kind": "fact", "group": "guide.pdf:3", "rating": {"clear": 5, …}
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.lib.asking.answer_models import Ask
from stages.lib.data.jsonl_reader import Line, Rejected
from stages.lib.every_stage.lineage import file_sha256
from stages.lib.pdf_qa.document_questions import Pair, document_questions, is_korean, title_of
from stages.lib.pdf_qa.grounding import UNGROUNDED, ungrounded
from stages.lib.pdf_qa.layout import blocks_of
from stages.lib.pdf_qa.page_gate import UNUSABLE
from stages.lib.pdf_qa.pdf_pages import Page, PdfRefused, ends_early
from stages.lib.pdf_qa.rating import Rate
from stages.lib.pdf_qa.raw_text import block_paragraphs
from stages.lib.pdf_qa.text_store import TextStore
from stages.lib.pdf_qa.written_questions import question_prompt, usable, written_in
from stages.lib.schema.choices import Backend, OnBadPdf
from stages.lib.schema.data import Generate, PreparePdfQa

FROM_PDF = (*UNGROUNDED, "unreadable_response")
"""Reasons for which a generated pair, or a model's whole response, is dropped."""


@dataclass
class Asked:
    """A question in one wording or several, each with the answer; who wrote it, and of which kind a model calls it."""

    pairs: list[Pair]
    by: str
    kind: str = ""


PROSE = ". Its prose can be learned as raw text: prepare_pdf_qa.raw_text=true"


@dataclass
class PdfReport:
    """What became of each file and page."""

    pages: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)  # files without %%EOF that were read all the same


def pdf_rows(
    path: Path,
    pages_of: Callable[[], list[Page]],
    label: str,
    section: PreparePdfQa,
    ask: Ask | None,
    rate: Rate | None,
    texts: TextStore | None,
    report: PdfReport,
) -> Iterator[Line | Rejected]:
    """Yield every pair made from a PDF, grounded or rejected, and note its pages, or its refusal, in `report`.

    `pages_of` returns its pages. Reports and rows call the file `label`. `ask` is the model that writes questions, or
    None for the rules alone; `rate` rates them, and `texts` gets the paragraphs, where that is wanted. Raises
    PdfRefused if the file can't be read and `on_bad_pdf` is stop.
    """
    try:
        pages = pages_of()
    except PdfRefused as refused:
        if section.on_bad_pdf is OnBadPdf.stop:
            raise PdfRefused(path, refused.reason, f"{refused.detail}. Fix or remove the file, or set "
                             "prepare_pdf_qa.on_bad_pdf=skip to continue without it") from None  # fmt: skip
        report.refused.append({"file": label, "reason": refused.reason, "detail": refused.detail})
        return
    if ends_early(path):
        report.cut.append(label)
    sha256 = file_sha256(path)
    asked_on: dict[int, list[Asked | Rejected]] = defaultdict(list)
    blocks = blocks_of([page for page in pages if not UNUSABLE & set(page.problems)]) if ask or texts else []
    if texts:
        texts.add(block_paragraphs(blocks), str(path), label, sha256)
    languages = [language.value for language in section.languages]
    for pair in document_questions(pages, path.stem, languages) if section.generate.rules else ():
        asked_on[pair.page].append(Asked([pair], Backend.rules.value))
    title, korean = title_of(blocks, path.stem), is_korean(blocks)
    for page in pages:
        found = asked_on[page.page]
        readable = not UNUSABLE & set(page.problems)
        if ask and readable:
            found += asked_by_model(f"{path}:{page.page}", page, section.generate, ask, title, korean)
        group = f"{label}:{page.page}" if ask else ""
        rows = list(page_rows(path, label, sha256, page, found, group, rate)) if readable else []
        report.pages.append({
            "file": label, "page": page.page, "characters": len(page.text), "via": page.via,
            "problems": page.problems, "tables": len(page.tables), "questions": len(rows),
        })  # fmt: skip
        yield from rows


def page_rows(
    path: Path,
    label: str,
    sha256: str,
    page: Page,
    found: Iterable["Asked | Rejected"],
    group: str,
    rate: Rate | None,
) -> Iterator[Line | Rejected]:
    """The pairs of one page, each held against the text that it was made from, and rated by `rate` where it is given.

    Where a model wrote questions, two may be about one thing, whoever asked them: those of a `group` are all trained on
    or all held out.
    """
    where, stem = f"{path}:{page.page}", label[: -len(path.suffix)]
    for number, asked in enumerate(found, start=1):
        if isinstance(asked, Rejected):
            yield asked
            continue
        fact = f"{stem}-{page.page}-{number}"
        for wording, pair in enumerate(asked.pairs, start=1):
            source: dict[str, Any] = {"file": label, "sha256": sha256, "page": page.page,
                                      "span": [pair.start, pair.end], "by": asked.by}  # fmt: skip
            source |= {name: value for name, value in (("kind", asked.kind), ("group", group)) if value}
            row = {
                "id": fact if wording == 1 else f"{fact}.{wording}",
                "instruction": pair.question,
                "output": pair.answer,
                "source": source,
            }
            if len(asked.pairs) > 1:
                row["fact_id"] = fact
            reason, detail = ungrounded(pair.answer, pair.source)
            detail = f"{detail}: {pair.answer[:80]}"
            if not reason and rate:
                scores, reason, detail = rate(pair.question, pair.answer, pair.source)
                source |= {"rating": scores} if scores else {}
            if reason:
                yield Rejected(where, reason, detail, f"{pair.question}\n{pair.answer}", row)
            else:
                yield Line(where, row)


def asked_by_model(
    where: str, page: Page, generate: Generate, ask: Ask, title: str, korean: bool
) -> "Iterator[Asked | Rejected]":
    """What a model makes of each piece of a page of the document `title`; what of a response can't be used is named."""
    for start, text in chunks(page.text, generate.chunk_characters):
        response = ask(question_prompt(text, title, korean, generate.kinds, generate.wordings), usable)
        written, complaints = written_in(response)
        for complaint in complaints:
            yield Rejected(where, "unreadable_response", complaint, response)
        for each in written:
            place = text.find(each.answer)
            span = (start + place, start + place + len(each.answer)) if place >= 0 else (start, start + len(text))
            wordings = each.questions[: generate.wordings]
            pairs = [Pair(question, each.answer, page.page, *span, text) for question in wordings]
            kind = each.kind if each.kind in [known.value for known in generate.kinds] else ""
            yield Asked(pairs, generate.backend.value, kind)


def chunks(text: str, size: int) -> Iterator[tuple[int, str]]:
    """Cut a page at line ends into pieces of at most `size` characters, unless a line is longer; with their places."""
    start, piece = 0, ""
    for line in text.splitlines(keepends=True):
        if piece and len(piece) + len(line) > size:
            yield start, piece
            start, piece = start + len(piece), ""
        piece += line
    if piece.strip():
        yield start, piece


def summary(report: PdfReport) -> dict[str, Any]:
    """Numbers of pages by what was wrong with them, and the refused files."""
    problems = sorted({problem for page in report.pages for problem in page["problems"]})
    return {
        "pages": len(report.pages),
        "read_by_pypdf": sum(page["via"] == "pypdf" for page in report.pages),
        "problems": {name: sum(name in page["problems"] for page in report.pages) for name in problems},
        "refused": report.refused,
        "cut": report.cut,
    }


def by_document(report: PdfReport, text_rows: Mapping[str, int] | None) -> list[str]:
    """A line for each PDF: what it gave, or why it gave nothing; `text_rows` are its rows of raw text, where wanted."""
    lines = [f"{one['file']}: left out: {one['reason']}: {one['detail']}" for one in report.refused]
    for name in dict.fromkeys(page["file"] for page in report.pages):
        pages = [page for page in report.pages if page["file"] == name]
        asked, empty = sum(page["questions"] for page in pages), sum("no_text" in page["problems"] for page in pages)
        text = "" if text_rows is None else f" and {text_rows.get(name, 0) or 'no'} rows of raw text"
        said = f"{name}: {asked or 'no'} questions{text} from {len(pages)} pages"
        if empty == len(pages):
            said += "; no page has text: a scan. Run OCR over it first (ocrmypdf writes a PDF with a text layer)"
        elif not asked:
            said += "; it has no heading that asks, FAQ, table or article that was understood"
            said += "" if text_rows is not None else PROSE
        elif empty:
            said += f"; {empty} pages have no text"
        lines.append(said)
    return lines
