"""From PDFs to rows of Q&A: pages, the page gate, questions by the chosen back end, the grounding gate, provenance.

Every row's source: {"file": "guide.pdf", "sha256": "3f…", "page": 3, "span": [120, 164], "by": "rules"}
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.lib.data.jsonl_reader import Line, Rejected
from stages.lib.lineage import file_sha256
from stages.lib.models.answer_models import PROMPT, Ask, pairs_in
from stages.lib.pdf_qa.document_questions import Pair, document_questions
from stages.lib.pdf_qa.grounding import UNGROUNDED, ungrounded
from stages.lib.pdf_qa.page_gate import UNUSABLE
from stages.lib.pdf_qa.pdf_pages import Page, PdfRefused, ends_early, read_pdf
from stages.lib.schema.choices import OnBadPdf
from stages.lib.schema.data import Generate, PreparePdfQa

FROM_PDF = (*UNGROUNDED, "unreadable_response")
"""Reasons for which a generated pair, or a model's whole response, is dropped."""


@dataclass
class PdfReport:
    """What became of each file and page."""

    pages: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)  # files without %%EOF that were read all the same


def pdf_rows(
    path: Path, label: str, section: PreparePdfQa, ask: Ask | None, report: PdfReport
) -> Iterator[Line | Rejected]:
    """Yield every pair made from a PDF, grounded or rejected, and note its pages, or its refusal, in `report`.

    Reports and rows call the file `label`. `ask` is the model, or None for the rules. Raises PdfRefused if the file
    can't be read and `on_bad_pdf` is stop.
    """
    try:
        pages = read_pdf(path, section.limits)
    except PdfRefused as refused:
        if section.on_bad_pdf is OnBadPdf.stop:
            raise PdfRefused(path, refused.reason, f"{refused.detail}. Mend or remove the file, or set "
                             "prepare_pdf_qa.on_bad_pdf=skip to go on without it") from None  # fmt: skip
        report.refused.append({"file": label, "reason": refused.reason, "detail": refused.detail})
        return
    if ends_early(path):
        report.cut.append(label)
    sha256, asked_on = file_sha256(path), defaultdict(list)
    languages = [language.value for language in section.languages]
    for pair in document_questions(pages, path.stem, languages) if ask is None else ():
        asked_on[pair.page].append((pair, pair.source))
    for page in pages:
        found = asked_on[page.page] if ask is None else asked(page, section.generate, ask)
        usable = not UNUSABLE & set(page.problems)
        rows = list(page_rows(path, label, sha256, page, found, section.generate)) if usable else []
        report.pages.append({
            "file": label, "page": page.page, "characters": len(page.text), "via": page.via,
            "problems": page.problems, "tables": len(page.tables), "questions": len(rows),
        })  # fmt: skip
        yield from rows


def page_rows(
    path: Path, label: str, sha256: str, page: Page, found: Iterable[tuple[Pair | str, str]], generate: Generate
) -> Iterator[Line | Rejected]:
    """The pairs of one page, each held against the text that it was made from."""
    where, stem = f"{path}:{page.page}", label[: -len(path.suffix)]
    for number, (pair, text) in enumerate(found, start=1):
        if isinstance(pair, str):
            yield Rejected(where, "unreadable_response", pair, text)
            continue
        source = {"file": label, "sha256": sha256, "page": page.page, "span": [pair.start, pair.end],
                  "by": generate.backend.value}  # fmt: skip
        row = {
            "id": f"{stem}-{page.page}-{number}",
            "instruction": pair.question,
            "output": pair.answer,
        }
        reason, detail = ungrounded(pair.answer, text)
        if reason:
            yield Rejected(where, reason, f"{detail}: {pair.answer[:80]}", f"{pair.question}\n{pair.answer}")
        else:
            yield Line(where, row | {"source": source})


def asked(page: Page, generate: Generate, ask: Ask) -> Iterator[tuple[Pair | str, str]]:
    """What a model makes of each piece of a page, with the piece; a response that can't be read is its complaint."""
    for start, text in chunks(page.text, generate.chunk_characters):
        response = ask(PROMPT.format(text=text))
        pairs = pairs_in(response)
        if isinstance(pairs, str):
            yield pairs, response
            continue
        for question, answer in pairs:
            place = text.find(answer)
            span = (start + place, start + place + len(answer)) if place >= 0 else (start, start + len(text))
            yield Pair(question, answer, page.page, *span, text), text


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


def by_document(report: PdfReport) -> list[str]:
    """A line for each PDF: what it gave, or why it gave nothing."""
    lines = [f"{one['file']}: left out: {one['reason']}: {one['detail']}" for one in report.refused]
    for name in dict.fromkeys(page["file"] for page in report.pages):
        pages = [page for page in report.pages if page["file"] == name]
        asked, empty = sum(page["questions"] for page in pages), sum("no_text" in page["problems"] for page in pages)
        said = f"{name}: {asked or 'no'} questions from {len(pages)} pages"
        if empty == len(pages):
            said += "; no page has text: a scan. Run OCR over it first (ocrmypdf writes a PDF with a text layer)"
        elif not asked:
            said += "; it has no heading that asks, FAQ, table or article that was understood"
        elif empty:
            said += f"; {empty} pages have no text"
        lines.append(said)
    return lines
