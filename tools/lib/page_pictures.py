"""Pictures of the pages that rows come from, and where on them an answer is: drawn and read by children with limits."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import file_sha256
from stages.lib.pdf_qa.pdf_pages import Page, PdfRefused, cause_of_death, opened_by_child, read_pdf, refuse_at_a_glance
from stages.lib.pdf_qa.qa_files import files_below, files_in, labels_of, stays_within
from stages.lib.schema.data import PdfLimits
from tools.lib import picture_child

RAW = Path("data/raw/pdf_qa")
PICTURES, DOCUMENTS = 60, 3
"""How many are kept in memory: a page's picture has a third of a MiB, a read document some MiB."""

Box = tuple[float, float, float, float]


@dataclass
class Picture:
    """A page as PNG. `at` is where its origin is, and where a point to the right and one upward go (picture_child)."""

    png: bytes
    at: list[list[float]]

    def share(self, box: Box) -> Box:
        """A box of the page (left, bottom, right, top, in points) as left, top, width and height in the picture."""
        origin, right, up = self.at
        corners = [(origin[0] + x * right[0] + y * up[0], origin[1] + x * right[1] + y * up[1])
                   for x in (box[0], box[2]) for y in (box[1], box[3])]  # fmt: skip
        across, down = zip(*corners, strict=True)
        return min(across), min(down), max(across) - min(across), max(down) - min(down)


class PagePictures:
    """The pages of the PDFs that the stage reads (`pdfs`), or that are in its folder, by the names that rows give."""

    def __init__(self, pdfs: Iterable[str], limits: PdfLimits, folder: Path = RAW) -> None:
        self.limits = limits
        self.paths: dict[str, Path] = {}
        with suppress(UserError):  # a row is reviewed without its page where its file is gone
            inside = [file for file in files_below(folder) if stays_within(folder, file)]
            self.paths = {file.name: file for file in inside if file.name.lower().endswith(".pdf")}
        with suppress(UserError):
            found = labels_of(files_in(list(pdfs), (".pdf",), "prepare_pdf_qa.pdfs"))
            self.paths |= {label: path for path, label in found.items()}
        self.one_at_a_time = Lock()  # else each request for a document that is being read would read it too
        self.drawn = lru_cache(PICTURES)(self.draw)
        self.documents = lru_cache(DOCUMENTS)(self.read)

    def path(self, source: dict[str, Any]) -> Path | None:
        """The PDF of a row's source, if it is there and still the one that was read."""
        path = self.paths.get(str(source.get("file")))
        if path is None or not isinstance(source.get("page"), int) or not path.is_file():
            return None
        return path if source.get("sha256") in (None, file_sha256(path)) else None

    def picture(self, source: dict[str, Any]) -> Picture | None:
        """The picture of a row's page. Raises PdfRefused if it can't be drawn."""
        path = self.path(source)
        return self.drawn(path, path.stat().st_mtime_ns, source["page"]) if path else None

    def marks(self, source: dict[str, Any]) -> dict[str, Any]:
        """The page's text, from where to where in it the answer is, and the boxes around that in its picture.

        Raises PdfRefused if it can't be read. What isn't known is empty.
        """
        path, span = self.path(source), span_of(source)
        if path is None or span is None:
            return {"text": "", "span": [0, 0], "boxes": []}
        with self.one_at_a_time:
            pages = self.documents(path, path.stat().st_mtime_ns)
        page = next((page for page in pages if page.page == source["page"]), None)
        if page is None:
            return {"text": "", "span": [0, 0], "boxes": []}
        picture = self.picture(source)
        boxes = [picture.share(box) for box in boxes_of(page, *span)] if picture else []
        return {"text": page.text, "span": span, "boxes": boxes}

    def draw(self, path: Path, changed: int, page: int) -> Picture:
        """A page's picture by a child; `changed` tells versions of the file apart."""
        refuse_at_a_glance(path, self.limits)
        done = opened_by_child(picture_child.__name__, path, self.limits, str(page))
        line, newline, png = done.stdout.partition(b"\n")
        if not newline:
            raise PdfRefused(path, *cause_of_death(done, self.limits))
        told = json.loads(line)
        if "refused" in told:
            raise PdfRefused(path, told["refused"], told["detail"])
        return Picture(png, told["at"])

    def read(self, path: Path, changed: int) -> list[Page]:
        """A document's pages as the stage reads them, without what repeats on each: spans count in that text."""
        return read_pdf(path, self.limits)


def span_of(source: dict[str, Any]) -> tuple[int, int] | None:
    """Where in its page's text a row's answer begins and ends, if its source says so; own rows may bring any source."""
    match source.get("span"):
        case [int(start), int(end)]:
            return start, end
    return None


def boxes_of(page: Page, start: int, end: int) -> list[Box]:
    """The boxes of the lines that hold a part of the page's text; none where only the text is known."""
    boxes: list[Box] = []
    begun = 0
    for line in page.lines:
        ended = begun + len(line.text.rstrip())
        if line.size and begun < end and start < ended:
            boxes.append((line.x0, line.y0, line.x1, line.y1))
        begun = ended + 1
    return boxes
