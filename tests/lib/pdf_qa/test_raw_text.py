"""Paragraphs are prose under their headings; what isn't has its reason, and nothing is lost on the way."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.lib.pdf_qa.layout import Block, blocks_of
from stages.lib.pdf_qa.pdf_pages import Page
from stages.lib.pdf_qa.raw_text import (
    LONGEST,
    Paragraph,
    Unclean,
    block_paragraphs,
    clean_paragraphs,
    text_paragraphs,
)
from tests.lib.pdf_qa.test_document_questions import PROSE, placed

KINDS = ("heading", "text", "item", "table", "note", "article")
SAID = "시민청은 강가에 있으며 평일에 문을 엽니다."


def kept(*paragraphs: Paragraph, drop: bool = False) -> list[Paragraph]:
    found = clean_paragraphs(paragraphs, ["<|im_end|>"], drop)
    return [each for each in found if isinstance(each, Paragraph)]


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("table", "업무 | 수수료\n여권 | 50,000원", "not_prose"),
        ("note", "1) 이 안내서는 2031년 3월에 마지막으로 고쳤습니다.", "not_prose"),
        ("text", "표 3. 층별 안내와 담당 부서의 전화번호", "not_prose"),
        ("text", "담당: 김 아무개", "fragment"),
        ("text", "E = m · c² + 12.5 · (3 − 1) ÷ 4 = 18", "few_letters"),
        ("text", "여권은 (cid:12)층에서 접수하며 사흘이 걸립니다.", "unreadable"),
        ("text", "답이 끝나면 <|im_end|> 토큰을 쓰도록 가르칩니다.", "special_token"),
        ("text", "담당자의 전화번호는 010-1234-5678이니 낮에 거십시오.", "pii"),
        ("text", "μ¨κΈ°λ³΄κ±΄μ† μ§„λ£λ” μ¤μ „ 9μ‹ 25λ¶„λ¶€ν„°μ…λ‹λ‹¤.", "mojibake"),
    ],
)
def test_what_is_no_clean_prose_has_its_reason(kind: str, text: str, reason: str) -> None:
    (found,) = clean_paragraphs([Paragraph(kind, 1, text)], ["<|im_end|>"], drop_personal_data=True)
    assert isinstance(found, Unclean) and found.reason == reason


def test_personal_data_is_named_where_it_stays() -> None:
    (found,) = kept(Paragraph("text", 1, "담당자의 전화번호는 010-1234-5678이니 낮에 거십시오."))
    assert found.personal_data == ["mobile_phone"]


def test_a_heading_goes_with_the_paragraph_below_and_is_counted_where_there_is_none() -> None:
    given_ = [
        Paragraph("heading", 1, "1장 이용", level=20), Paragraph("heading", 1, "1.1 시간", level=14),
        Paragraph("text", 1, SAID), Paragraph("heading", 1, "1.2 요금", level=14),
        Paragraph("heading", 2, "1.3 위치", level=14), Paragraph("text", 2, "강변역에서 걸어서 십 분이 걸립니다."),
        Paragraph("heading", 2, "2장", level=20),
    ]  # fmt: skip
    found = list(clean_paragraphs(given_, [], drop_personal_data=False))
    texts = [each.whole() for each in found if isinstance(each, Paragraph)]
    assert texts == [f"1장 이용\n\n1.1 시간\n\n{SAID}", "1.3 위치\n\n강변역에서 걸어서 십 분이 걸립니다."]
    alone = [(each.paragraph.text, each.reason) for each in found if isinstance(each, Unclean)]
    assert alone == [("1.2 요금", "heading_alone"), ("2장", "heading_alone")]


def test_a_sentence_that_goes_on_over_the_page_is_joined_by_a_space_and_lists_by_a_line() -> None:
    _, second, item, other = kept(
        Paragraph("text", 1, "여권은 본인이 신분증을 가지고 직접 와서 신청해야 하며 미성년자는"),
        Paragraph("text", 2, "보호자가 대신 신청할 수 있습니다."),
        Paragraph("item", 2, "1. 신분증"), Paragraph("item", 2, "2. 사진 한 장"),
    )  # fmt: skip
    assert (second.joint, item.joint, other.joint) == (" ", "\n\n", "\n")


def test_blocks_of_a_pdf_become_paragraphs_with_their_places() -> None:
    page = placed((20, True, "Library"), (10, False, ""), (10, False, PROSE), (10, False, ""),
                  (10, True, "Fee|Days"), (10, False, "12|3"), (10, False, "14|4"), (10, False, "15|5"))  # fmt: skip
    found = list(clean_paragraphs(block_paragraphs(blocks_of([page])), [], drop_personal_data=False))
    (prose,) = [each for each in found if isinstance(each, Paragraph)]
    assert prose.headings == ["Library"] and prose.text == PROSE.strip()
    assert page.text[prose.start : prose.end] == PROSE.strip()
    article = Block("article", 1, "이 규칙은 시민청의 이용을 정한다.", 0, 9, title="제1조(목적)")
    assert next(block_paragraphs([article])).text == "제1조(목적) 이 규칙은 시민청의 이용을 정한다."
    assert [each.text for each in block_paragraphs(blocks_of([Page(1, SAID, "pypdf", [])]))] == [SAID]


def test_the_paragraphs_of_a_text_are_parted_by_empty_lines_and_headings() -> None:
    text = "---\n# 안내\n첫 줄\n둘째 줄\n \n\n- 하나\n- 둘\n#태그는 제목이 아닙니다"
    found = [(each.kind, each.place, each.text) for each in text_paragraphs(text.splitlines(keepends=True))]
    assert found == [
        ("text", 1, "---"), ("heading", 2, "# 안내"), ("text", 3, "첫 줄\n둘째 줄"),
        ("item", 7, "- 하나\n- 둘\n#태그는 제목이 아닙니다"),
    ]  # fmt: skip


def test_a_text_without_empty_lines_is_read_in_bounded_pieces() -> None:
    line = "가" * 1000
    sizes = [len(each.text) for each in text_paragraphs(line for _ in range(300))]
    assert len(sizes) > 3 and max(sizes) < LONGEST + 2100


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.builds(Paragraph, st.sampled_from(KINDS), st.integers(1, 9), st.text(), level=st.floats(1, 30))))
def test_every_paragraph_comes_out_or_is_named(paragraphs: list[Paragraph]) -> None:
    found = list(clean_paragraphs(paragraphs, ["a"], drop_personal_data=True))
    out = sum(1 + len(each.headings) if isinstance(each, Paragraph) else 1 for each in found)
    assert out == len(paragraphs)
