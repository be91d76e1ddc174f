"""A stranger's PDF gives its pages or a named reason, within the limits, and this process never pays for it."""

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stages.lib.pdf_qa import pdf_child, pdf_pages
from stages.lib.pdf_qa.document_questions import Pair, document_questions, topic
from stages.lib.pdf_qa.grounding import ungrounded
from stages.lib.pdf_qa.page_gate import page_problems
from stages.lib.pdf_qa.pdf_pages import (
    Page,
    PdfRefused,
    cause_of_death,
    read_ahead,
    read_pdf,
    without_continued_tables,
    without_running_lines,
)
from stages.lib.schema.data import PdfLimits
from tests.pdf_files import bomb, encrypted, line, pdf, table, text_page, write_faq

KOREAN = "달여울시민청은 평일 오전 여덟 시 사십 분에 문을 엽니다. 여권은 본청 창구에서 신청합니다."


def test_pages_come_without_headers_and_page_numbers(tmp_path: Path) -> None:
    pages = read_pdf(write_faq(tmp_path / "faq.pdf"), PdfLimits())
    assert [page.page for page in pages] == [1, 2, 3, 4]
    assert all("안내서" not in page.text and "- " not in page.text for page in pages)
    assert pages[2].text.startswith("3. 3번 창구는 무슨 일을 하나요?")
    assert pages[0].tables == [[["업무", "수수료", "처리 기간"], ["1호 증명", "150원", "1일"]]]
    assert all(page.via == "pdfium" and page.problems == [] for page in pages)


def test_pdfs_are_read_side_by_side_and_come_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_faq(tmp_path / f"{number}.pdf", pages=2 + number % 3) for number in range(5)]
    paths[2].write_bytes(b"<html>")
    begun: list[Path] = []

    def noted(path: Path, limits: PdfLimits) -> list[Page]:
        begun.append(path)
        return read_pdf(path, limits)

    monkeypatch.setattr(pdf_pages, "read_pdf", noted)
    monkeypatch.setattr(pdf_pages, "usable_cores", lambda: 2)
    reading = read_ahead(paths, PdfLimits())
    path, pages_of = next(reading)
    assert path == paths[0] and pages_of() == read_pdf(paths[0], PdfLimits())
    assert set(begun) <= set(paths[:3])  # no more than the next two are held
    for (path, pages_of), expected in zip(reading, paths[1:], strict=True):
        assert path == expected
        if path == paths[2]:
            with pytest.raises(PdfRefused, match="not_a_pdf"):
                pages_of()
        else:
            assert [page.page for page in pages_of()] == [page.page for page in read_pdf(path, PdfLimits())]
    assert sorted(begun) == sorted(paths)


def test_a_stop_in_the_middle_reads_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Path] = []
    monkeypatch.setattr(pdf_pages, "read_pdf", lambda path, _: begun.append(path))
    monkeypatch.setattr(pdf_pages, "usable_cores", lambda: 2)
    reading = read_ahead([tmp_path / f"{number}.pdf" for number in range(9)], PdfLimits())
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert len(begun) <= 3


def test_the_child_that_opens_it_knows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the child says what it was told."""
    told = tmp_path / "told"
    child = tmp_path / "python"
    child.write_text(f"#!/bin/sh\nenv > {told}\necho '{{\"done\": 0}}'\n")
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "a secret")
    read_pdf(write_faq(tmp_path / "faq.pdf"), PdfLimits())
    assert "PATH=" in told.read_text() and "a secret" not in told.read_text()


def asked(*pages: Page) -> list[Pair]:
    return list(document_questions(list(pages), "안내"))


def test_a_page_asks_and_answers(tmp_path: Path) -> None:
    page = read_pdf(write_faq(tmp_path / "faq.pdf"), PdfLimits())[1]
    pairs = asked(page)
    assert [(pair.question, pair.answer) for pair in pairs] == [
        ("2번 창구는 무슨 일을 하나요?", "2번 창구는 여권을 접수하고 200원짜리 수입인지를 팝니다."),
        ("2층 회의실은 몇 명까지 들어가나요?", "2층 회의실에는 27명까지 들어갑니다."),
        ("2호 증명의 수수료는?", "250원"),
        ("2호 증명의 처리 기간은?", "2일"),
    ]
    for pair in pairs[:2]:
        assert "".join(pair.answer.split()) in "".join(page.text[pair.start : pair.end].split())


def test_a_table_that_goes_on_without_its_header_makes_no_questions(tmp_path: Path) -> None:
    header, rows, below = ["업무", "기간"], [["여권", "3일"], ["전입", "4일"], ["전출", "5일"]], line(50, 400, KOREAN)
    for name, second in {
        "goes on": rows[1:],
        "repeats": [header, *rows[1:]],
        "other": [["가", "나", "다"]] * 2,
    }.items():
        path = tmp_path / f"{name}.pdf"
        path.write_bytes(pdf([text_page([KOREAN]) + table(60, 500, [header, rows[0]]), table(60, 800, second) + below]))
        first, page = read_pdf(path, PdfLimits())
        assert len(asked(first)) == 1
        assert (page.problems, page.tables == []) == ((["table_continued"], True) if name == "goes on" else ([], False))
    apart = [Page(1, "여권 3일", "", [], [[header, rows[0]]]), Page(2, "다른 표\n전입 4일", "", [], [[rows[1]]])]
    assert without_continued_tables(apart)[1].problems == []  # a heading stands between


def test_few_lines_are_running_lines_in_a_short_document() -> None:
    pages = [Page(n, f"같은 첫 줄\n본문 {n}은 다릅니다\n쪽 {n}", "pdfium", []) for n in (1, 2)]
    assert without_running_lines(pages)[0].text.startswith("같은 첫 줄")


REFUSED = {
    "empty": b"",
    "not_a_pdf": b"<!DOCTYPE html><html><body>Sign in to download</body></html>",
    "truncated": pdf([text_page([KOREAN] * 30)])[:500],
    "damaged": b"%PDF-1.7\n" + b"no objects at all " * 50 + b"\n%%EOF\n",
    "encrypted": encrypted(pdf([text_page([KOREAN])])),
    "memory_limit": bomb(700),
    "too_many_pages": pdf([text_page([KOREAN])] * 12),
    "too_big": b"%PDF-1.7\n" + bytes(2_000_000) + b"%%EOF",
}


@pytest.mark.parametrize("reason", REFUSED)
def test_each_bad_file_has_its_reason(tmp_path: Path, reason: str) -> None:
    path = tmp_path / "bad.pdf"
    path.write_bytes(REFUSED[reason])
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(PdfRefused) as refused:
        read_pdf(path, PdfLimits(bytes=2_000_000, pages=10, memory_mib=400, seconds=20))
    assert refused.value.reason == reason
    assert "bad.pdf" in str(refused.value)
    assert time.monotonic() - started < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024  # KiB


def test_what_pdfium_reads_is_read_whatever_its_end(tmp_path: Path) -> None:
    whole = pdf([text_page([KOREAN])])
    for name, content in {"longer": whole + bytes(9000), "shorter": whole.removesuffix(b"%%EOF\n")}.items():
        path = tmp_path / f"{name}.pdf"
        path.write_bytes(content)
        assert KOREAN in read_pdf(path, PdfLimits())[0].text.replace("\n", " ")


def test_a_file_that_is_gone_or_links_to_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / "nowhere.pdf").symlink_to(tmp_path / "gone")
    (tmp_path / "loop.pdf").symlink_to(tmp_path / "loop.pdf")
    for name in ("nowhere", "loop", "removed"):
        with pytest.raises(PdfRefused, match=rf"{name}.pdf: unreadable: .*check the file, its link"):
            read_pdf(tmp_path / f"{name}.pdf", PdfLimits())


@pytest.mark.slow
def test_processor_time_is_limited_by_the_child_itself(tmp_path: Path) -> None:
    path = tmp_path / "slow.pdf"
    path.write_bytes(bomb(200))
    command = [sys.executable, "-m", "stages.lib.pdf_qa.pdf_child", str(path), "4096", "1", "10"]
    done = subprocess.run(command, capture_output=True, timeout=120)  # nobody else ends it
    reason, detail = cause_of_death(done, PdfLimits(seconds=1))
    assert (reason, detail) == ("time_limit", "used more than 1 s of processor time")


@pytest.mark.slow
def test_time_is_limited(tmp_path: Path) -> None:
    path = tmp_path / "slow.pdf"
    path.write_bytes(bomb(200))
    with pytest.raises(PdfRefused) as refused:
        read_pdf(path, PdfLimits(seconds=1, memory_mib=4096))
    assert refused.value.reason == "time_limit"


def garbled(text: str) -> str:
    """Each syllable as one of those that Korean is hardly ever written with."""
    return "".join("뷁" if "가" <= char <= "힣" else char for char in text)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (KOREAN, []),
        ("The office opens at 8:40 in the morning on every weekday.", []),
        ("- 3 -", ["no_text"]),
        (KOREAN + "\ue123" * 5, ["private_use"]),
        (garbled(KOREAN), ["garbled"]),
        (KOREAN.replace(" ", ""), ["spacing_lost"]),
    ],
)
def test_the_page_gate(text: str, problems: list[str]) -> None:
    assert page_problems(text) == problems


def test_a_garbled_page_is_read_by_the_other_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "garbled.pdf"
    path.write_bytes(pdf([text_page([garbled(KOREAN)]), text_page([KOREAN])]))
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(pdf_child, "say", said.append)
    monkeypatch.setattr(pdf_child, "text_by_pypdf", lambda path, index: KOREAN)
    assert pdf_child.extract(str(path), 10) == {"done": 2}
    assert [(page["via"], page["problems"]) for page in said] == [("pypdf", []), ("pdfium", [])]
    assert said[0]["text"] == KOREAN and said[0]["lines"] == []


def test_a_page_that_nobody_can_read_stays_flagged(tmp_path: Path) -> None:
    path = tmp_path / "garbled.pdf"
    path.write_bytes(pdf([text_page([garbled(KOREAN)])]))
    (page,) = read_pdf(path, PdfLimits())
    assert page.problems == ["garbled"] and page.via == "pdfium"


def test_a_table_without_clear_names_makes_no_questions() -> None:
    unclear = [
        [["업무", ""], ["여권", "3일"]],
        [["업무", "기간", "기간"], ["여권", "3일", "4일"]],
        [["업무", "기간"], ["여권", "3일"], ["여권", "4일"]],
    ]
    for rows in unclear:
        assert asked(Page(1, KOREAN, "pdfium", [], [rows])) == []


def test_an_answer_goes_on_to_the_next_question() -> None:
    text = "Q. 언제 여나요?\nA. 아홉 시에\n엽니다. 점심에도 엽니다.\n제2장 다른 이야기\n"
    text += "Q. 답이 없나요?\nQ. 어디인가요?\nA. 여기입니다."
    assert [(pair.question, pair.answer) for pair in asked(Page(1, text, "pypdf", []))] == [
        ("언제 여나요?", "아홉 시에 엽니다. 점심에도 엽니다."),
        ("어디인가요?", "여기입니다."),
    ]


@pytest.mark.parametrize(
    ("word", "particle"), [("주소", "는"), ("기간", "은"), ("API", "는"), ("URL", "은"), ("비고(1)", "은")]
)
def test_topic_particles(word: str, particle: str) -> None:
    assert topic(word) == particle


SOURCE = (
    "반딧불도서관은 매월 셋째 화요일에 쉽니다. 대출은 13권까지이고 Wi-Fi 암호는 lib2031입니다. 연체료는 1,350원입니다."
)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("매월 셋째 화요일에 쉽니다.", ""),
        ("대출은 13권까지입니다.", ""),
        ("연체료는 1350원입니다.", ""),
        ("대출은 15권까지입니다.", "ungrounded_number"),
        ("대출은 3권까지입니다.", "ungrounded_number"),
        ("Ethernet 암호는 lib2031입니다.", "ungrounded_latin"),
        ("수영장은 새벽부터 밤늦게까지 쉬는 날 없이 문을 엽니다.", "ungrounded_text"),
    ],
)
def test_the_grounding_gate(answer: str, reason: str) -> None:
    assert ungrounded(answer, SOURCE)[0] == reason


def test_tables_are_looked_for_only_where_lines_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mixed.pdf"
    path.write_bytes(
        pdf([text_page([KOREAN]), text_page([KOREAN]) + table(60, 500, [["업무", "기간"], ["여권", "3일"]])])
    )
    looked_at: list[int] = []
    monkeypatch.setattr(pdf_child, "say", lambda line: None)
    monkeypatch.setattr(pdf_child, "ruled_tables", lambda path, index, sides: looked_at.append(index) or {})
    pdf_child.extract(str(path), 10)
    assert looked_at == [1]


def test_a_table_without_lines_around_it_is_read_by_those_between() -> None:
    across = {(y, 20, 260) for y in (700, 680, 660)}
    assert pdf_child.open_sides(across, {(120, 640, 700)}) == [[20, 640, 260, 700]]
    assert pdf_child.open_sides(across, {(20, 640, 700), (120, 640, 700)}) == []  # a side is drawn
    assert pdf_child.open_sides({(700, 20, 260), (680, 90, 200)}, {(120, 640, 700)}) == []  # rules of other things


def test_a_table_that_the_pages_end_cuts_is_closed_there() -> None:
    columns = {(x, 40, 700) for x in (20, 120, 260)}
    assert pdf_child.open_sides({(700, 20, 260), (650, 20, 260)}, columns) == [[20, 40, 260, 700]]
    assert pdf_child.open_sides({(y, 20, 260) for y in (700, 650, 40)}, columns) == []


def test_the_cells_of_an_open_table_are_found(tmp_path: Path) -> None:
    rules = "".join(f"60 {y} m 300 {y} l S " for y in (700, 670, 640)) + "160 610 m 160 700 l S "
    words = "".join(line(x, y, word) for x, y, word in (
        (70, 680, "찾기"), (170, 680, "책을 찾는다"), (70, 650, "빌리기"), (170, 650, "책을 빌린다"),
        (70, 620, "반납"), (170, 620, "책을 돌려준다"),
    ))  # fmt: skip
    path = tmp_path / "card.pdf"
    path.write_bytes(pdf([text_page([KOREAN]) + rules + words]))
    (page,) = read_pdf(path, PdfLimits())
    assert page.tables == [[["찾기", "책을 찾는다"], ["빌리기", "책을 빌린다"], ["반납", "책을 돌려준다"]]]
