"""The process that draws a page of a stranger's PDF: it limits itself first, as the one that reads it does.

It writes one JSON line, {"at": [[0.0, 1.0], [0.00168, 0.0], [0.0, -0.00119]]}, then a PNG: where the page's origin is
in the picture, and how far a point to the right and a point upward go there, as shares of its width and height. Or the
line says why not: {"refused": "damaged", "detail": "…"}.
"""

from __future__ import annotations

import ctypes
import io
import json
import sys
from typing import TYPE_CHECKING, Any

from stages.lib.pdf_qa.pdf_child import limit_itself

if TYPE_CHECKING:
    from pypdfium2 import PdfPage

LONGEST = 1600
"""Pixels of a picture's longer side; a page may claim to be metres wide."""
STEP = 1000
"""Points from the origin at which a page is asked where it draws them."""


def main(path: str, memory_mib: int, seconds: int, page: int) -> None:
    """Write the picture of a page, counted from 1, to standard output."""
    limit_itself(memory_mib, seconds)
    try:
        line, picture = drawn(path, page)
    except MemoryError:
        line, picture = {"refused": "memory_limit", "detail": f"needs more than {memory_mib} MiB"}, b""
    sys.stdout.buffer.write(json.dumps(line).encode() + b"\n" + picture)
    sys.stdout.buffer.flush()


def drawn(path: str, number: int) -> tuple[dict[str, Any], bytes]:
    """The line about a page, and its picture."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
        if not 1 <= number <= len(document):
            return {"refused": "no_such_page", "detail": f"page {number} of {len(document)}"}, b""
        page = document[number - 1]
    except pypdfium2.PdfiumError as error:
        return {"refused": "damaged", "detail": str(error)}, b""
    bitmap = page.render(scale=min(2.0, LONGEST / max(*page.get_size(), 1)))
    buffer = io.BytesIO()
    bitmap.to_pil().save(buffer, "PNG")
    origin, right, up = (place(page, x, y) for x, y in ((0, 0), (STEP, 0), (0, STEP)))
    steps = [[(end - start) / STEP for start, end in zip(origin, one, strict=True)] for one in (right, up)]
    return {"at": [list(origin), *steps]}, buffer.getvalue()


def place(page: PdfPage, x: float, y: float) -> tuple[float, float]:
    """Where a point of the page is in its picture, from the upper left corner; a rotated page is drawn rotated."""
    from pypdfium2 import raw

    size, across, down = 10**6, ctypes.c_int(), ctypes.c_int()
    raw.FPDF_PageToDevice(page.raw, 0, 0, size, size, 0, x, y, ctypes.byref(across), ctypes.byref(down))
    return across.value / size, down.value / size


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
