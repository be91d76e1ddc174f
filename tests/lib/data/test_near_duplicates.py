"""The index finds what comparing all with all finds, and guards keep different questions apart."""

import random

from stages.lib.data.near_duplicates import COMPARED, KnownQuestions, NearDuplicates, near, signature, similarity

WORDS = [
    "도서관",
    "수영장",
    "보건소",
    "시민청",
    "접수",
    "마감",
    "이용",
    "시간",
    "요금",
    "신청",
    "서류",
    "담당",
    "위치",
    "전화",
    "예약",
    "취소",
    "환불",
]


def questions(count: int, seed: int) -> list[str]:
    """Random questions, every second one a slip of the pen away from the one before."""
    generator = random.Random(seed)
    made: list[str] = []
    for number in range(count):
        if number % 2 and made:
            text = made[-1]
            place = generator.randrange(len(text) - 3)
            made.append(text[:place] + generator.choice("가나다라") + text[place + 1 :])
        else:
            made.append(" ".join(generator.choices(WORDS, k=30)) + " 인가요?")
    return made


def candidate_pairs(asked: list[str]) -> set[tuple[int, int]]:
    """What the index finds when each question is looked up and then added."""
    index, pairs = NearDuplicates(), set()
    for number, question in enumerate(asked):
        signed = signature(question, "답")
        pairs |= {(earlier, number) for earlier in index.candidates(signed)}
        index.add(number, signed)
    return pairs


def test_the_index_finds_what_comparing_all_with_all_finds() -> None:
    made = questions(250, seed=1)
    found = {pair for pair in candidate_pairs(made) if near(made[pair[0]], "답", made[pair[1]], "답")}
    expected = {
        (i, j)
        for j in range(len(made))
        for i in range(j)
        if similarity(made[i], made[j]) >= 0.9 and near(made[i], "답", made[j], "답")
    }
    assert len(expected) > 60
    assert len(expected - found) <= 0.01 * len(expected) and found <= expected


def test_numbered_templates_share_no_bucket() -> None:
    templates = [f"{n}번 창구에서 처리하는 민원 서류의 이름과 수수료를 모두 알려 주시겠습니까?" for n in range(3000)]
    assert candidate_pairs(templates) == set()


def test_a_bucket_of_equal_questions_costs_no_square() -> None:
    pairs = candidate_pairs(["같은 질문을 여러 번 하면 어떻게 되나요?"] * 100)
    assert len(pairs) == sum(min(number, COMPARED) for number in range(100))
    assert (83, 99) in pairs and (82, 99) not in pairs  # the newest


def test_guards() -> None:
    question = (
        "시민 백일장의 접수를 마감하는 날짜와 시각은 정확히 언제이며 어디에서 신청서를 받고 작품은 누구에게 몇 편까지 "
        "우편으로 보낼 때 어떤 봉투를 쓰며 심사 결과는 어느 게시판에서 볼 수 있나요?"
    )
    slip = question.replace("백일장", "백일짱", 1)
    answer = "시민 백일장의 접수를 마감하는 시각은 오후 6시이며 신청서는 본청 1층 종합 안내대에서 받습니다. "
    answer += "12일까지입니다. 작품은 우편으로도 보냅니다."
    assert near(question, answer, slip, answer)
    pairs = [
        ("2031년 " + question, answer, "2032년 " + question, answer),
        (question, answer, slip, answer.replace("12일", "19일")),
        (question, answer, "안 " + question, answer),
        ("KT " + question, answer, "SK " + question, answer),
    ]
    for one, said, other, also_said in pairs:
        assert similarity(one, other) >= 0.9 and similarity(said, also_said) >= 0.9  # the guard alone tells them apart
        assert not near(one, said, other, also_said)


def test_known_questions() -> None:
    known = KnownQuestions()
    known.add("eval 1", "반딧불도서관은 매월 몇째 주 무슨 요일에 문을 열지 않고 하루를 쉬나요?")
    assert known.find("반딧불 도서관은 매월 몇째 주 무슨 요일에 문을 열지 않고 하루를 쉬나요") == "eval 1"
    assert known.find("반딧불도서관은 매월 몇째 주 무슨 요일에 문을 열지 않고 하루를 쉬나여?") == "eval 1"
    assert known.find("반딧불도서관은 매월 몇째 주 무슨 요일에 문을 여나요?") == ""


def test_known_questions_are_equal_whatever_their_spacing_even_where_guards_differ() -> None:
    known = KnownQuestions()
    known.add("eval 1", "도서관은 안 쉬나요?")
    assert known.find("도서관은 안쉬나요?") == "eval 1"
    assert known.find("도서관은 쉬나요?") == ""
