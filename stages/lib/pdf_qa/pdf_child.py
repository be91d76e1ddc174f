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
from stages.lib.pdf_qa.text_lines import lines_of

PASSWORD_NEEDED = 4  # FPDF_ERR_PASSWORD
LONG = 6
"""Points that a drawn line has at least."""
NEAR = 3
"""Points within which lines meet, or are the two edges of one."""
MEETS_AS_FRAME = 2
"""Lines that each side of a frame meets; a line of a table meets more."""
MOST_LINES = 600
"""Drawn lines of a page that are looked at; where there are more, a table among them is looked for anyway."""
TEXT_LIMIT = 2**20
"""Characters of one page; a real page has a few thousand."""


def main(path: str, memory_mib: int, seconds: int, max_pages: int) -> None:
    """Write the pages of a PDF to standard output."""
    limit_itself(memory_mib, seconds)
    try:
        say(extract(path, max_pages))
    except MemoryError:
        say({"refused": "memory_limit", "detail": f"needs more than {memory_mib} MiB"})


def limit_itself(memory_mib: int, seconds: int) -> None:
    """Take no more memory (MiB of address space) and processor time than this, and write to no file."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes to a pipe and to no file


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
        if (count := textpage.count_chars()) > TEXT_LIMIT:
            detail = f"page {index + 1} has {count} characters, at most {TEXT_LIMIT}"
            return {"refused": "text_limit", "detail": detail}
        lines = lines_of(textpage)
        text = "\n".join(line.text.rstrip() for line in lines)
        ruled = may_hold_a_table(page)
        textpage.close()
        page.close()
        problems, via = page_problems(text), "pdfium"
        if UNUSABLE & set(problems):
            other = clean(text_by_pypdf(path, index))
            if not UNUSABLE & set(page_problems(other)):
                text, problems, via, lines = other, page_problems(other), "pypdf", []
        usable = not UNUSABLE & set(problems)
        found = ruled_tables(path, index) if usable and ruled else []
        say({"page": index + 1, "text": text, "via": via, "problems": problems, "tables": [rows for rows, _ in found],
             "boxes": [box for _, box in found], "lines": [vars(line) for line in lines]})  # fmt: skip
    return {"done": len(document)}


def may_hold_a_table(page: Any) -> bool:
    """Whether lines drawn on a page cross as those of two rows and two columns do; pdfplumber, which is slow, isn't
    asked about other pages: frames, rules under headings and boxes around links are on many."""
    import pypdfium2

    across: set[tuple[int, int, int]] = set()  # y, from, to
    down: set[tuple[int, int, int]] = set()  # x, from, to
    for path in page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_PATH], max_depth=2):
        left, bottom, right, top = map(round, path.get_bounds())
        if right - left >= LONG:
            across |= {(bottom, left, right), (top, left, right)}
        if top - bottom >= LONG:
            down |= {(left, bottom, top), (right, bottom, top)}
        if len(across) > MOST_LINES or len(down) > MOST_LINES:
            return True
    rows, columns = end_to_end(across), end_to_end(down)
    return any(meets(line, columns) > MEETS_AS_FRAME for line in rows) and any(
        meets(line, rows) > MEETS_AS_FRAME for line in columns
    )


def end_to_end(lines: set[tuple[int, int, int]]) -> set[tuple[int, int, int]]:
    """Lines of one direction, those that go on in each other as one: a table may be drawn cell by cell."""
    whole: list[tuple[int, int, int]] = []
    for place, start, end in sorted(lines):
        if whole and whole[-1][0] == place and start <= whole[-1][2] + NEAR:
            whole[-1] = (place, whole[-1][1], max(end, whole[-1][2]))
        else:
            whole.append((place, start, end))
    return set(whole)


def meets(line: tuple[int, int, int], others: set[tuple[int, int, int]]) -> int:
    """How many lines of the other direction a line meets, those that lie close together counting once."""
    place, start, end = line
    met = sorted({
        other for other, other_start, other_end in others
        if start - NEAR <= other <= end + NEAR and other_start - NEAR <= place <= other_end + NEAR
    })  # fmt: skip
    return sum(number == 0 or other - met[number - 1] > NEAR for number, other in enumerate(met))


def text_by_pypdf(path: str, index: int) -> str:
    """A page's text by the one library that reads PDFs with a broken ToUnicode map; empty if it can't either."""
    from pypdf.errors import PyPdfError

    try:
        return pypdf_reader(path).pages[index].extract_text()
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return ""  # its parser meets whatever the file holds; the page stays flagged


def ruled_tables(path: str, index: int) -> list[tuple[list[list[str]], list[float]]]:
    """The tables drawn with lines on a page: rows of cells, and the box (left, bottom, right, top) around them."""
    from pdfminer.pdfexceptions import PDFException

    try:
        page = plumbed(path).pages[index]
        # without x_tolerance_ratio Korean words run together: word F1 0.28 instead of 0.94
        settings = {"text_x_tolerance_ratio": 0.15}
        found = page.find_tables(settings)
        tables = [table.extract(x_tolerance_ratio=0.15) for table in found]
        left, bottom = float(page.bbox[0]), float(page.bbox[3])
        boxes = [[x0 - left, bottom - y1, x1 - left, bottom - y0] for x0, y0, x1, y1 in (table.bbox for table in found)]
        page.close()
    except (PDFException, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return []  # the page's text is there; only its tables aren't
    rows = [[[" ".join((cell or "").split()) for cell in row] for row in table] for table in tables]
    return list(zip(rows, boxes, strict=True))


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
