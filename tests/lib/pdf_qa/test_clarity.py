"""The rules find what is surely wrong and let what may be right pass."""

import pytest

from stages.lib.pdf_qa.clarity import personal_data, unclear


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("언제?", "내일입니다.", "question_too_short"),
        ("Is it open?", "Yes.", "dangling_reference"),
        ("What does it cost?", "Five.", "dangling_reference"),
        ("이건 얼마인가요?", "오천 원입니다.", "dangling_reference"),
        ("도서관 이용 안내문", "월요일에 쉽니다.", "no_predicate"),
        ("Where is the office?", "The office is on the", "answer_truncated"),
        ("신청은 어떻게 하나요?", "신청서를 작성하여", "answer_truncated"),
        ("Where is the office?", "I'm sorry, I can't help with that.", "answer_is_refusal"),
        ("문의는 어디로 하나요?", "잘 모르겠습니다.", "answer_is_refusal"),
        ("Where is the office?", "사무실은 시청 옆 건물에 있습니다.", "language"),
        ("사무실은 어디인가요?", "The office is in the building next to city hall.", "language"),
    ],
)
def test_unclear(question: str, answer: str, reason: str) -> None:
    assert unclear(question, answer, answerable=True)[0] == reason


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Italy's capital is called what?", "Rome"),
        ("How are items returned?", "By post."),
        ("Why is it that the library closes early?", "The staff is small."),
        ("여기저기 흩어진 서류는 어디에 내나요?", "1번 창구에 냅니다."),
        ("도서관 위치를 알려주세요.", "시청 옆입니다."),
        ("반려동물과 들어갈 수 있나요?", "죄송하지만 반려동물은 들어올 수 없습니다."),
        ("아침식사가 영어로 뭐예요?", "It is called breakfast, the first meal of the day in English."),
        ("홈페이지 주소는 무엇인가요?", "https://office.example/ko"),
        ("편집기 이름은 무엇인가요?", "Visual Studio Code"),
        ("대표 전화번호는?", "099-731-2648"),
        ("어느 마을로 가나요?", "윗마을"),
        ("오늘 너무 피곤해", "푹 쉬는 게 좋겠어요."),
        ("시험에서 떨어졌어ㅠㅠ", "다음에는 잘될 거예요."),
        ("이사 가기 싫은데 어떡하지", "가족과 먼저 이야기해 보세요."),
        ("커피 마셔도 돼", "하루 두 잔까지는 괜찮아요."),
        ("해볼까?", "해 보세요."),
        ("제주도 여행지 추천", "성산일출봉을 권합니다."),
        ("건강하게 살 빼는 법", "천천히 드세요."),
        ("Green Card 센터의 문의처는?", "2층 국제협력팀입니다."),
        ("International Cooperation Center 전화는?", "099-731-2648번, 국제협력팀입니다."),
        ("東京都の人口は何人ですか？", "やく千四百万にんです。"),
        ("How do you write kimchi in Korean?", "김치라고 씁니다."),
        ("What is the Greek word for sea?", "θάλασσα"),
        ("다음 문장을 베트남어로 옮기세요.", "Xin chào, tôi là nhân viên của văn phòng này và rất vui được gặp."),
    ],
)
def test_clear(question: str, answer: str) -> None:
    assert unclear(question, answer, answerable=True) == ("", "")


def test_card_numbers_pass_the_check_digit() -> None:
    assert personal_data("4111-1111-1111-1111") == ["card_number"]
    assert personal_data("4111-1111-1111-1112") == []
    assert personal_data("접수 번호 2031051200017") == []
