"""Lines of a page as they stand on it: text, place, size and weight, from the characters that pdfium gives.

pdfium's line breaks are the file's own; where it glues what stands below to a line (a heading, 제2조), the places of
the characters tell. A line keeps the space at its end: pdfium leaves one only where a word ends.
"""

from __future__ import annotations

import ctypes
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pypdfium2 import PdfTextPage, raw

APART = 0.6
"""Of a character's height: what is higher or lower by more is another line."""
CELL_GAP = 1.2
"""Of a character's height: a wider gap in a line is a border between cells."""
BOLD_FROM = 600
BOLD_NAME = re.compile(rb"bold|black|heavy|demi|[-,]bd|[-,]md", re.IGNORECASE)
BROKEN = {0x2, 0xFFFE, 0xAD}
"""What pdfium gives for a hyphen at a line's end that is no sign of the word, and the soft hyphen."""
LEFT_OUT = {0, 0xFFFF, 0x300}
"""Null, a mark of pdfium's, and the accent that LaTeX prints as an opening quote."""


@dataclass
class TextLine:
    """One line: its text, its box in points from the lower left corner, its height, and its cells.

    `size` is the font's in points, 0 where only the text is known; `broken` says that its last word goes
    on in the next line. `cells` are the places in the text
    where a cell begins, with the cell's left and right edge.
    """

    text: str
    x0: float = 0.0
    x1: float = 0.0
    y0: float = 0.0
    y1: float = 0.0
    size: float = 0.0
    bold: bool = False
    broken: bool = False
    cells: list[tuple[int, float, float]] = field(default_factory=list)

    def cell_texts(self) -> list[str]:
        """The texts of the cells."""
        starts = [start for start, _, _ in self.cells]
        return [self.text[a:b].strip() for a, b in zip(starts, [*starts[1:], len(self.text)], strict=True)]

    def within(self, box: list[float]) -> bool:
        """Whether the middle of the line is in a box (left, bottom, right, top)."""
        x, y = (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2
        return bool(self.size) and box[0] - 1 <= x <= box[2] + 1 and box[1] - 1 <= y <= box[3] + 1


def plain_lines(text: str) -> list[TextLine]:
    """Lines of which only the text is known."""
    return [TextLine(line) for line in text.split("\n")]


def lines_of(textpage: PdfTextPage) -> list[TextLine]:
    """The lines of a pypdfium2 text page, in the order of the file."""
    from pypdfium2 import raw

    page, count = textpage.raw, textpage.count_chars()
    box = raw.FS_RECTF()
    place = ctypes.byref(box)
    lines: list[TextLine] = []
    line: TextLine | None = None
    first = last = sized = 0
    high = 0  # the first half of a character beyond U+FFFF

    def end() -> None:
        nonlocal line
        if line is not None and line.text.strip():
            line.size = font_size(page, sized)
            line.bold = is_bold(page, first) and is_bold(page, last)
            lines.append(line)
        line = None

    for index in range(count):
        code = raw.FPDFText_GetUnicode(page, index)
        if code in (0x0A, 0x0D):
            end()
            continue
        if code in LEFT_OUT or code in BROKEN:
            if line is not None:
                line.broken = code in BROKEN
            continue
        if 0xD800 <= code < 0xDC00:
            high = code
            continue
        if 0xDC00 <= code < 0xE000:
            if not high:
                continue
            code, high = 0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00), 0
        char = " " if code in (0x20, 0xA0, 0x09, 0x3000) else chr(code)
        if char == " ":
            if line is not None and not line.text.endswith(" "):
                line.text += char
            continue
        raw.FPDFText_GetLooseCharBox(page, index, place)
        x0, x1, y0, y1 = box.left, box.right, box.bottom, box.top
        height = y1 - y0
        if line is not None:
            middle = (line.y0 + line.y1) / 2
            if abs((y0 + y1) / 2 - middle) > APART * max(height, line.size) or x1 < line.x0 - line.size:
                end()
        if line is None:
            line = TextLine("", x0, x1, y0, y1, height, cells=[(0, x0, x1)])
            first = sized = index
        elif x0 - line.x1 > CELL_GAP * max(height, 1.0):
            if not line.text.endswith(" "):
                line.text += " "
            line.cells.append((len(line.text), x0, x1))
        line.text += char
        line.broken = False
        line.x0, line.x1 = min(line.x0, x0), max(line.x1, x1)
        start, left, right = line.cells[-1]
        line.cells[-1] = (start, left, max(right, x1))
        last = index
        if not line.text[0].isalpha() and char.isalpha() and sized == first:
            sized = index  # ① and • may be of another font
    end()
    return lines


def font_size(page: raw.FPDF_TEXTPAGE, index: int) -> float:
    """The size of a character's font in points, as its matrix leaves it."""
    from pypdfium2 import raw

    matrix = raw.FS_MATRIX()
    raw.FPDFText_GetMatrix(page, index, ctypes.byref(matrix))
    return round(raw.FPDFText_GetFontSize(page, index) * math.hypot(matrix.c, matrix.d), 2)


def is_bold(page: raw.FPDF_TEXTPAGE, index: int) -> bool:
    """Whether a character is set in a heavy font, by its weight or by its font's name."""
    from pypdfium2 import raw

    if raw.FPDFText_GetFontWeight(page, index) >= BOLD_FROM:
        return True
    name, flags = ctypes.create_string_buffer(128), ctypes.c_int()
    raw.FPDFText_GetFontInfo(page, index, name, 128, flags)
    return bool(BOLD_NAME.search(name.value))
