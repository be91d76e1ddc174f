"""PDF files written by hand: Korean text without an embedded font, ruled tables, and files that do harm."""

import io
import zlib
from pathlib import Path


def line(x: int, y: int, text: str) -> str:
    """One line of text at a place, in points from the lower left corner."""
    return f"BT /F1 11 Tf {x} {y} Td <{text.encode('utf-16-be').hex()}> Tj ET\n"


def text_page(lines: list[str]) -> str:
    """Lines from the top of the page downwards."""
    return "".join(line(50, 800 - 18 * number, text) for number, text in enumerate(lines))


def table(x: int, y: int, rows: list[list[str]], width: int = 140, height: int = 24) -> str:
    """A table drawn with lines, its upper left corner at a place."""
    drawn = ""
    for row_number, row in enumerate(rows):
        for column, cell in enumerate(row):
            left, bottom = x + column * width, y - (row_number + 1) * height
            drawn += f"{left} {bottom} {width} {height} re S\n" + line(left + 5, bottom + 8, cell)
    return drawn


def pdf(contents: list[str]) -> bytes:
    """A PDF with one page for each content stream."""
    count = len(contents)
    pages = " ".join(f"{10 + 2 * number} 0 R" for number in range(count))
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: f"<< /Type /Pages /Kids [{pages}] /Count {count} >>".encode(),
        3: b"<< /Type /Font /Subtype /Type0 /BaseFont /Batang /Encoding /UniKS-UCS2-H /DescendantFonts [4 0 R] >>",
        4: b"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /Batang /FontDescriptor 5 0 R /DW 1000 "
        b"/CIDSystemInfo << /Registry (Adobe) /Ordering (Korea1) /Supplement 1 >> >>",
        5: b"<< /Type /FontDescriptor /FontName /Batang /Flags 6 /FontBBox [0 -200 1000 900] /ItalicAngle 0 "
        b"/Ascent 800 /Descent -200 /CapHeight 700 /StemV 80 >>",
    }
    for number, content in enumerate(contents):
        objects[10 + 2 * number] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {11 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        ).encode()
        objects[11 + 2 * number] = stream(content.encode())
    return assembled(objects)


def stream(data: bytes) -> bytes:
    """A compressed stream object."""
    packed = zlib.compress(data, 9)
    return b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(packed), packed)


def assembled(objects: dict[int, bytes]) -> bytes:
    """Objects with header, cross-reference table and trailer; object 1 is the catalogue."""
    out, offsets = bytearray(b"%PDF-1.7\n"), {}
    for number, body in sorted(objects.items()):
        offsets[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start, size = len(out), max(objects) + 1
    out += b"xref\n0 %d\n0000000000 65535 f \n" % size
    for number in range(1, size):
        out += b"%010d 00000 n \n" % offsets[number] if number in offsets else b"0000000000 00000 f \n"
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, start)
    return bytes(out)


def bomb(megabytes: int) -> bytes:
    """A small file whose one page unpacks to many megabytes of drawing commands."""
    packed = zlib.compress(b"0 0 m 9 9 l S\n" * (megabytes * 2**20 // 14), 9)
    content = b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(packed), packed)
    return assembled({
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        3: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources << >> >>",
        4: content,
    })  # fmt: skip


def encrypted(content: bytes) -> bytes:
    """The same PDF behind a password."""
    from pypdf import PdfWriter

    writer, buffer = PdfWriter(clone_from=io.BytesIO(content)), io.BytesIO()
    writer.encrypt("secret", algorithm="AES-256")
    writer.write(buffer)
    return buffer.getvalue()


def write_faq(path: Path, pages: int = 4) -> Path:
    """A guide with a header and a page number on every page, FAQ, a heading that asks, and a ruled table."""
    contents = []
    for number in range(1, pages + 1):
        contents.append(text_page([
            "한빛구청 안내서", f"- {number} -",
            f"{number}. {number}번 창구는 무슨 일을 하나요?",
            f"{number}번 창구는 여권을 접수하고",
            f"{number}00원짜리 수입인지를 팝니다.",
            "",
            f"Q. {number}층 회의실은 몇 명까지 들어가나요?",
            f"A. {number}층 회의실에는 {number}7명까지 들어갑니다.",
        ]))  # fmt: skip
        cells = [["업무", "수수료", "처리 기간"], [f"{number}호 증명", f"{number}50원", f"{number}일"]]
        contents[-1] += table(60, 500, cells)
    path.write_bytes(pdf(contents))
    return path
