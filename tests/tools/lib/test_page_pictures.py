"""The mark is where the answer is drawn, on upright and on rotated pages; what can't be drawn is refused by name."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stages.lib.every_stage.lineage import file_sha256
from stages.lib.pdf_qa.pdf_pages import Page, PdfRefused
from stages.lib.schema.data import PdfLimits
from tests.pdf_files import bomb, encrypted, pdf, text_page, write_faq
from tools.lib import page_pictures
from tools.lib.page_pictures import PagePictures, boxes_of

LINES = [
    "한빛구청 안내서입니다. 잘 읽어 주세요.",
    "Q. 1층 회의실은 몇 명까지 들어가나요?",
    "A. 17명까지 들어갑니다.",
    "",
    "끝입니다.",
]


def pictures(folder: Path, **limits: int) -> PagePictures:
    return PagePictures([], PdfLimits(**limits), folder)


def source_of(path: Path, said: str, page: int = 1) -> dict[str, Any]:
    """The source of a row whose answer is `said`, as the stage writes it."""
    text = next(one for one in pictures(path.parent).read(path, 0) if one.page == page).text
    start = text.index(said)
    return {"file": path.name, "sha256": file_sha256(path), "page": page, "span": [start, start + len(said)]}


def ink(png: bytes, box: Sequence[float]) -> float:
    """The share of dark pixels in a part of a picture, given as shares of its width and height."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("L")
    left, top, width, height = box
    wide, high = image.size
    part = image.crop((int(left * wide), int(top * high), int((left + width) * wide), int((top + height) * high)))
    histogram = part.histogram()
    return sum(histogram[:128]) / max(1, sum(histogram))


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_the_mark_is_on_the_answer_however_the_page_is_turned(tmp_path: Path, rotate: int) -> None:
    plain = pdf([text_page(LINES)])
    path = tmp_path / "guide.pdf"
    path.write_bytes(plain.replace(b"/MediaBox [0 0 595 842]", b"/MediaBox [-20 -30 575 812] /Rotate %d" % rotate))
    desk = pictures(tmp_path)
    source = source_of(path, LINES[2])
    marks, picture = desk.marks(source), desk.picture(source)
    assert picture and marks["text"][slice(*marks["span"])] == LINES[2]
    (box,) = marks["boxes"]
    assert ink(picture.png, box) > 0.01  # there is writing, in whatever font draws it
    assert (box[3] > box[2]) == (rotate in (90, 270))
    ((x0, y0, x1, y1),) = boxes_of(desk.read(path, 0)[0], *source["span"])
    below = picture.share((x0, y0 - 18, x1, y1 - 18))  # where nothing is written
    assert ink(picture.png, below) == 0


def test_a_source_without_a_place_has_a_picture_and_no_mark(tmp_path: Path) -> None:
    write_faq(tmp_path / "guide.pdf")
    desk = pictures(tmp_path)
    for source in ({"file": "guide.pdf", "page": 2}, {"file": "guide.pdf", "page": 2, "span": "all of it"}):
        assert desk.marks(source) == {"text": "", "span": [0, 0], "boxes": []}
        picture = desk.picture(source)
        assert picture and picture.png.startswith(b"\x89PNG")


def test_a_file_that_changed_or_is_not_there_has_no_picture(tmp_path: Path) -> None:
    path = write_faq(tmp_path / "guide.pdf")
    source = source_of(path, "1번 창구는 여권을 접수하고")
    desk = pictures(tmp_path)
    assert desk.picture(source)
    write_faq(path, pages=5)
    assert desk.picture(source) is None and desk.marks(source)["boxes"] == []
    path.unlink()
    assert desk.picture({"file": "guide.pdf", "page": 1}) is None
    for other in ("../guide.pdf", str(path), "other.pdf", None, 3):
        assert desk.picture({"file": other, "page": 1}) is None
    assert desk.picture({"file": "guide.pdf"}) is None


def test_no_path_but_those_of_the_stage_is_opened(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    write_faq(tmp_path / "secret.pdf")
    (tmp_path / "raw/link.pdf").symlink_to(tmp_path / "secret.pdf")
    desk = pictures(tmp_path / "raw")
    assert desk.picture({"file": "secret.pdf", "page": 1}) is None
    assert desk.picture({"file": "../secret.pdf", "page": 1}) is None
    assert desk.picture({"file": "link.pdf", "page": 1}) is None  # the stage refuses what leads out of its folder


def test_what_can_t_be_drawn_is_refused_by_name(tmp_path: Path) -> None:
    page = pdf([text_page(LINES)])
    (tmp_path / "damaged.pdf").write_bytes(b"%PDF-1.7\nnothing\n%%EOF\n")
    (tmp_path / "locked.pdf").write_bytes(encrypted(page))
    (tmp_path / "page.pdf").write_bytes(b"<html>")
    (tmp_path / "short.pdf").write_bytes(page)
    for name, number, reason in (
        ("damaged.pdf", 1, "damaged"), ("locked.pdf", 1, "damaged"), ("page.pdf", 1, "not_a_pdf"),
        ("short.pdf", 7, "no_such_page"), ("short.pdf", 0, "no_such_page"),
    ):  # fmt: skip
        with pytest.raises(PdfRefused) as refused:
            pictures(tmp_path).picture({"file": name, "page": number})
        assert refused.value.reason == reason


def test_a_page_that_asks_too_much_ends_its_child_and_not_the_server(tmp_path: Path) -> None:
    (tmp_path / "bomb.pdf").write_bytes(bomb(600))
    with pytest.raises(PdfRefused) as refused:
        pictures(tmp_path, memory_mib=300, seconds=10).picture({"file": "bomb.pdf", "page": 1})
    assert refused.value.reason in ("memory_limit", "time_limit")
    wide = pdf([text_page(LINES)]).replace(b"[0 0 595 842]", b"[0 0 14400 9]")
    (tmp_path / "wide.pdf").write_bytes(wide)
    picture = pictures(tmp_path).picture({"file": "wide.pdf", "page": 1})
    assert picture and len(picture.png) < 2**20


def test_the_child_that_draws_knows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_faq(tmp_path / "guide.pdf")
    told = tmp_path / "told.json"
    (tmp_path / "spy.py").write_text(
        f"import json, os\nopen({str(told)!r}, 'w').write(json.dumps(dict(os.environ)))\nprint('{{}}')\n"
    )
    monkeypatch.setenv("OPENAI_API_KEY", "key-1")
    monkeypatch.setattr(page_pictures.picture_child, "__name__", "spy")
    monkeypatch.setattr("stages.lib.pdf_qa.pdf_pages.REPOSITORY", tmp_path)
    with pytest.raises(KeyError):
        pictures(tmp_path).picture({"file": "guide.pdf", "page": 1})
    assert "key-1" not in told.read_text() and "PYTHONPATH" in json.loads(told.read_text())


def test_lines_of_which_only_the_text_is_known_have_no_box() -> None:
    page = Page(1, "\n".join(LINES), "pypdf", [])
    assert boxes_of(page, 0, 20) == []
