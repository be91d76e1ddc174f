"""Questions come only where a document asks, whole and with the whole answer; prose makes none."""

import pytest

from stages.lib.pdf_qa.document_questions import document_questions, language_of
from stages.lib.pdf_qa.layout import blocks_of
from stages.lib.pdf_qa.pdf_pages import Page, without_running_lines
from stages.lib.pdf_qa.text_lines import TextLine

PROSE = "The office is open on weekdays and the library of the town is open in the evening for readers. "


def placed(*lines: tuple[float, bool, str], number: int = 1, top: float = 780.0) -> Page:
    """A page of lines of (size, bold, text), one below the other; an empty text is a gap. A | parts cells."""
    made, y = [], top
    for size, bold, text in lines:
        y -= 1.4 * size
        if not text:
            continue
        cells, shown, x = [], "", 60.0
        for cell in text.split("|"):
            shown += " " * bool(shown)
            cells.append((len(shown), x, x + 0.5 * size * len(cell)))
            shown += cell
            x += 120.0
        made.append(TextLine(shown, 60.0, cells[-1][2], y, y + size, size, bold, cells=cells))
    page = Page(number, "", "pdfium", [])
    page.keep(made)
    return page


def pairs(*pages: Page, name: str = "안내서") -> list[tuple[str, str]]:
    return [(pair.question, pair.answer) for pair in document_questions(list(pages), name)]


def text(*lines: str) -> Page:
    return Page(1, "\n".join(lines), "pypdf", [])


def test_a_heading_that_asks_over_two_lines_is_answered_up_to_the_next_heading_and_over_the_page() -> None:
    first = placed(
        (20, True, "Library FAQ"), (10, False, ""),
        (14, True, "1.2 Where can I return the books that I have"), (14, True, "borrowed?"), (10, False, ""),
        (10, False, PROSE), (10, False, "Books are returned at the desk,"),
    )  # fmt: skip
    second = placed((10, False, "or in the box by the door."), (10, False, ""), (14, True, "1.3 Fees"),
                    (10, False, PROSE), number=2)  # fmt: skip
    assert pairs(first, second) == [
        (
            "Where can I return the books that I have borrowed?",
            f"{PROSE}Books are returned at the desk, or in the box by the door.",
        )
    ]


@pytest.mark.parametrize(
    "lines",
    [
        ["What is freedom? Who owns an idea?", "That is what this book asks. Why should we care?", "Nobody knows."],
        ["So we ask again:", "who owns culture?", "The answer is long."],
        ["• Where is it?", "• When is it?", "• Who is it?"],
        ["Contents", "1.1 What is it? . . . . . . . . 5", "1.2 Who is it? . . . . . . . . 7", PROSE],
    ],
)
def test_prose_lists_of_questions_and_contents_make_none(lines: list[str]) -> None:
    assert pairs(text(*lines)) == []


@pytest.mark.parametrize(("asks", "says"), [("Q1.", "A1."), ("문:", "답:"), ("[질문 2]", "[답변]"), ("Q)", "A)")])
def test_markers_of_an_faq_and_a_question_over_lines(asks: str, says: str) -> None:
    lines = [f"{asks} 여권을 신청할 때", "무엇을 가져가나요?", f"{says} 네.", "신분증과 사진을 가져갑니다."]
    lines += [f"{asks} 얼마인가요?", f"{says} 5만 원입니다."]
    assert pairs(text(*lines)) == [
        ("여권을 신청할 때 무엇을 가져가나요?", "네. 신분증과 사진을 가져갑니다."),
        ("얼마인가요?", "5만 원입니다."),
    ]


def test_articles_are_rows_and_their_terms_too() -> None:
    lines = [
        "제1장 총칙", "제1조(목적) 이 약관은 회원의 권리를 정한다.", "제2조(용어의 정의) 용어의 뜻은 다음과 같다.",
        "1. 회원: 약관에 동의하고 가입한 사람을 말한다.", "제3조 삭제 <2020. 1. 1.>",
        "제4조(선임(先任)회원) ① 회원은", "세 명으로 한다.",
    ]  # fmt: skip
    found = dict(pairs(text(*lines), name="회원 약관"))
    assert found["「회원 약관」 제1조(목적)의 내용은 무엇인가요?"] == "이 약관은 회원의 권리를 정한다."
    assert found["「회원 약관」에서 말하는 회원의 뜻은 무엇인가요?"] == "약관에 동의하고 가입한 사람을 말한다."
    assert found["「회원 약관」 제4조(선임(先任)회원)의 내용은 무엇인가요?"] == "① 회원은 세 명으로 한다."
    assert len(found) == 4


@pytest.mark.parametrize(
    "header", [["번호", "질문", "답변"], ["No", "Question", "Answer"], ["No.", "QUESTION", "Answers"]]
)
def test_a_table_of_questions_is_read_as_one(header: list[str]) -> None:
    rows = [
        header,
        ["1", "Q. 여권은 어디서 받나요?", "A. 3번 창구에서 받습니다."],
        ["2", "주차는 되나요?", "한 시간까지 됩니다."],
    ]
    assert pairs(Page(1, "민원 안내 표입니다.", "pdfium", [], [rows])) == [
        ("여권은 어디서 받나요?", "3번 창구에서 받습니다."),
        ("주차는 되나요?", "한 시간까지 됩니다."),
    ]


def test_cells_are_asked_for_in_the_documents_language_under_its_caption() -> None:
    english = placed(
        (10, False, PROSE), (10, False, ""), (10, True, "Table 2 - Fees of the library"), (10, True, "Card|Fee|Days"),
        (10, False, "Adult|3.50|14"), (10, False, "Child|1.20|21"), (10, False, ""), (10, False, PROSE),
    )  # fmt: skip
    assert pairs(english) == [
        ("In “Fees of the library”, what is the Fee of Adult?", "3.50"),
        ("In “Fees of the library”, what is the Days of Adult?", "14"),
        ("In “Fees of the library”, what is the Fee of Child?", "1.20"),
        ("In “Fees of the library”, what is the Days of Child?", "21"),
    ]
    korean = placed(
        (10, False, "도서관은 시민 누구나 이용할 수 있습니다."), (10, False, ""), (14, True, "2. 이용료"),
        (10, True, "구분|요금|기간"), (10, False, "어른|3,500원|14일"), (10, False, "어린이|1,200원|21일"),
    )  # fmt: skip
    assert pairs(korean)[0] == ("이용료: 어른의 요금은?", "3,500원")
    german = [(10, False, "Die Bücherei ist werktags geöffnet und am Abend auch."), *[(10, True, "Karte|Preis|Tage")],
              (10, False, "Kind|1,20|21"), (10, False, "Alte|3,50|14")]  # fmt: skip
    assert pairs(placed(*german)) == []


GERMAN = [
    (10, False, "Die Bücherei der Stadt ist werktags und am Abend mit der Karte für alle geöffnet."),
    (10, True, "Table 3: Preise der Bücherei"), (10, True, "Karte|Preis|Tage"), (10, False, "Kind|1,20|21"),
    (10, False, "Alte|3,50|14"),
]  # fmt: skip


def test_tables_are_asked_for_in_the_languages_that_are_wanted() -> None:
    asked = [pair.question for pair in document_questions([placed(*GERMAN)], "preise", ["ko", "de"])]
    assert asked[0] == "Preise der Bücherei: Kind – Preis?" and len(asked) == 4
    assert list(document_questions([placed(*GERMAN)], "preise", ["ko", "en"])) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("도서관은 누구나 쓰며 Wi-Fi가 됩니다.", "ko"), (PROSE, "en"), (GERMAN[0][2], "de"),
        ("Le prix des livres et la liste des cours sont dans une salle du musée.", "fr"),
        ("図書館は月曜日に閉まります。", "ja"), ("图书馆星期一关闭。", "zh"), ("Библиотека открыта.", "ru"),
        ("Бібліотека відкрита.", "uk"), ("Η βιβλιοθήκη", "el"), ("0x1f 0x2a", ""),
    ],
)  # fmt: skip
def test_a_documents_language_is_told(text: str, code: str) -> None:
    assert language_of(text) == code


def test_a_heading_may_ask_and_say_something_more() -> None:
    page = placed((14, True, "2.5 Why does the disc hold links? I thought it is plain!"), (10, False, PROSE),
                  (14, True, "2.6 Fees"), (10, False, PROSE))  # fmt: skip
    assert pairs(page) == [("Why does the disc hold links? I thought it is plain!", PROSE.strip())]


def test_advice_that_ends_in_a_question_asks_nothing() -> None:
    page = placed((10, False, PROSE), (10, False, "• For each file, see why it is there. Is it in the right place?"),
                  (10, False, "• Build it and try it."))  # fmt: skip
    assert pairs(page) == []


def test_a_notice_is_no_section() -> None:
    page = placed(
        (10, False, "도서관은 시민 누구나 이용할 수 있습니다."), (14, True, "2. 이용료"), (14, True, "참고"),
        (10, False, "아래는 이용료를 적은 표입니다."), (10, True, "구분|요금|기간"), (10, False, "어른|3,500원|14일"),
        (10, False, "어린이|1,200원|21일"),
    )  # fmt: skip
    assert pairs(page)[0] == ("이용료: 어른의 요금은?", "3,500원")


def test_articles_that_are_misprinted_are_articles_and_laws_that_are_named_are_none() -> None:
    found = dict(pairs(text(
        "제7조(결격사유) 다음에 해당하는 자는 채용하지 못한다.", "제8 (전보) 적재적소에 배치한다. 이는 「상법」",
        "제414조(감사의 책임) 및 제415조(준용규정)에 따른다.", "제37조4(징계양정 기준) 증거로 결정한다.",
        "부 칙<2018.12.21.>", "제1조(시행일) 공포한 날부터 시행한다.", "제2조(적용) 이 규정을 시행하기 전에 발생하였",
    ), name="인사규정"))  # fmt: skip
    named = [question.split("」 ")[1].split("의 내용")[0] for question in found]
    assert named == ["제7조(결격사유)", "제8조(전보)", "제37조의4(징계양정 기준)", "부 칙<2018.12.21.> 제1조(시행일)"]
    assert found["「인사규정」 제8조(전보)의 내용은 무엇인가요?"].endswith("및 제415조(준용규정)에 따른다.")


@pytest.mark.parametrize(
    "header", [["2031/05/01", "14", "3"], ["Reads a file.", "Writes.", "Ends."], ["(cid:2)", "a", "b"]]
)
def test_data_is_no_header(header: list[str]) -> None:
    rows = [header, ["여권", "3일", "4일"], ["전입", "5일", "6일"]]
    assert pairs(Page(1, "민원 안내 표입니다.", "pdfium", [], [rows])) == []


def test_words_broken_at_a_lines_end_are_whole_by_the_documents_own_words() -> None:
    lines = [
        "이 규정은 직원의 인사관리를 정하며 인사관리를 맡은 부서가 있다", "모든 직원의 인사관",
        "리를 정하고 다른 일도 맡은 부서가", "있다 그리고 교육을 정하고 인사를 맡은 사람이",
    ]  # fmt: skip
    (block,) = blocks_of([text(*lines)])
    assert "직원의 인사관리를 정하고" in block.text and "부서가 있다 그리고" in block.text
    hyphen = TextLine("more difficult to com", broken=True)
    page = Page(1, "", "pdfium", [])
    page.keep([hyphen, TextLine("pile than others")])
    assert blocks_of([page])[0].text == "more difficult to compile than others"


def test_headers_that_name_the_section_and_stamps_are_no_text() -> None:
    pages = []
    for number in range(1, 7):
        lines = [(9, False, f"CHAPTER {number * 7}. ABOUT THINGS"), (10, False, ""), (10, False, "")]
        lines += [(10, False, f"Sentence {n} of page {number} says something else.") for n in range(12)]
        lines += [(10, False, "DRAFT COPY"), *[(10, False, f"More of {number} and {n}.") for n in range(number)]]
        pages.append(placed(*lines, number=number))
    for page in without_running_lines(pages):
        assert "CHAPTER" not in page.text and "DRAFT" not in page.text
        assert page.text.startswith("Sentence 0") and page.text.count("\n") >= 11
