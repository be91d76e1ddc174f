"""The process that opens a stranger's PDF: it limits itself first, writes one JSON line a page, and may die.

{"page": 3, "text": "1. 찾아오시는 길\\n…", "via": "pdfium", "problems": [], "tables": [[["기관", …], …]]}
Its last line says how it ended: {"done": 10} or {"refused": "encrypted", "detail": "…"}.
"""

import json
import resource
import sys
from functools import cache
from typing import Any

from stages.lib.pdf_qa.page_gate import UNUSABLE, page_problems

PASSWORD_NEEDED = 4  # FPDF_ERR_PASSWORD
FEWEST_RULES = 4
"""Path objects on a page, below which it can't hold a ruled table and pdfplumber isn't asked."""
TEXT_LIMIT = 2**20
"""Characters of one page; a real page has a few thousand."""


def main(path: str, memory_mib: int, seconds: int, max_pages: int) -> None:
    """Write the pages of a PDF to standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes to a pipe and to no file
    try:
        say(extract(path, max_pages))
    except MemoryError:
        say({"refused": "memory_limit", "detail": f"needs more than {memory_mib} MiB"})


def extract(path: str, max_pages: int) -> dict[str, Any]:
    """Write page by page; return the last line."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if error.err_code == PASSWORD_NEEDED:
            return {"refused": "encrypted", "detail": "needs a password"}
        return {"refused": "damaged", "detail": str(error)}
    if len(document) > max_pages:
        return {"refused": "too_many_pages", "detail": f"{len(document)} pages, at most {max_pages}"}
    if len(document) == 0:
        return {"refused": "damaged", "detail": "no pages"}
    for index in range(len(document)):
        page = document[index]
        textpage = page.get_textpage()
        text = clean(textpage.get_text_range())
        rules = sum(1 for _ in page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_PATH], max_depth=2))
        textpage.close()
        page.close()
        if len(text) > TEXT_LIMIT:
            return {
                "refused": "text_limit",
                "detail": f"page {index + 1} has {len(text)} characters, at most {TEXT_LIMIT}",
            }
        problems, via = page_problems(text), "pdfium"
        if UNUSABLE & set(problems):
            other = clean(text_by_pypdf(path, index))
            if not UNUSABLE & set(page_problems(other)):
                text, problems, via = other, page_problems(other), "pypdf"
        usable = not UNUSABLE & set(problems)
        tables = ruled_tables(path, index) if usable and rules >= FEWEST_RULES else []
        say({"page": index + 1, "text": text, "via": via, "problems": problems, "tables": tables})
    return {"done": len(document)}


def text_by_pypdf(path: str, index: int) -> str:
    """A page's text by the one library that reads PDFs with a broken ToUnicode map; empty if it can't either."""
    from pypdf.errors import PyPdfError

    try:
        return pypdf_reader(path).pages[index].extract_text()
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return ""  # its parser meets whatever the file holds; the page stays flagged


def ruled_tables(path: str, index: int) -> list[list[list[str]]]:
    """The tables drawn with lines on a page, as rows of cells."""
    from pdfminer.pdfexceptions import PDFException

    try:
        page = plumbed(path).pages[index]
        # without x_tolerance_ratio Korean words run together: word F1 0.28 instead of 0.94
        tables = page.extract_tables({"text_x_tolerance_ratio": 0.15})
        page.close()
    except (PDFException, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return []  # the page's text is there; only its tables aren't
    return [[[" ".join((cell or "").split()) for cell in row] for row in table] for table in tables]


@cache
def pypdf_reader(path: str) -> Any:
    """The file as pypdf reads it, opened once: it is the only one of this process."""
    from pypdf import PdfReader

    return PdfReader(path)


@cache
def plumbed(path: str) -> Any:
    """The file as pdfplumber reads it, opened once: opening it for each page costs four times its tables."""
    import pdfplumber

    return pdfplumber.open(path)


def clean(text: str) -> str:
    """Line breaks as one character, soft hyphens and null characters out."""
    return (
        text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "").replace("\ufffe", "").replace("\u00ad", "")
    )


def say(line: dict[str, Any]) -> None:
    """Write one JSON line."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
