"""What states the answer to a held-out question is found; other text about the same place is not."""

from typing import Any

import pytest

from stages.lib.pdf_qa.text_leaks import HeldOutFacts

ANSWER = "달여울시민청 주소는 달여울시 초롱돌로 417, 6층입니다."


def record(answer: str = ANSWER, **changes: Any) -> dict[str, Any]:
    row = {"id": "address-1", "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}],
           "key": [], "source": {"file": "faq.jsonl", "line": 1}}  # fmt: skip
    return row | changes


def stated(text: str, *records: dict[str, Any], sha256: str = "", page: int = 1, span: tuple[int, int] = (0, 9)) -> str:
    return HeldOutFacts(records).stated_by(text, sha256, page, *span)


@pytest.mark.parametrize(
    "text",
    [
        f"오시는 길을 알려 드립니다. {ANSWER} 지하철이 가깝습니다.",
        "달여울시민청 주소는 달여울시 초롱돌로 417 , 6층 입니다",  # a part of the answer, otherwise spaced
        "주소는 달여울시 초롱돌로 417, 6층입니다.",
    ],
)
def test_a_text_that_shares_the_answers_wording_states_it(text: str) -> None:
    assert stated(text, record()) == "address-1"


@pytest.mark.parametrize(
    "text", ["달여울시민청은 평일에 문을 열고 여권을 접수합니다.", "주소", "초롱돌로에는 나무가 많아 걷기 좋습니다."]
)
def test_other_text_does_not(text: str) -> None:
    assert stated(text, record()) == ""


def test_a_text_that_holds_all_keys_of_a_fact_states_it() -> None:
    keyed = record("전화는 099-731-5913번으로 거시면 됩니다.", key=["099-731-5913"])
    assert stated("여권과 대표 번호: 099-731-5913 (평일)", keyed) == "address-1"
    assert stated("민원실 대표 번호: 099-731-5000 (평일)", keyed) == ""
    both = record("수수료는 오만 원이고 사흘이 걸린다고 합니다.", key=["오만 원", "사흘이 걸"])
    assert stated("오만 원을 내면 됩니다.", both) == "" and stated("사흘이 걸리고 오만 원입니다.", both) == "address-1"
    assert stated("3일이면 됩니다.", record("꼬박 3일이 걸리는 일이라고 들었습니다.", key=["3일"])) == ""  # too short


def test_a_text_that_stands_where_the_answer_was_taken_from_states_it() -> None:
    taken = record("17:00", source={"file": "a.pdf", "sha256": "3f", "page": 2, "span": [10, 20]})
    assert stated("오후 다섯 시에 닫습니다.", taken, sha256="3f", page=2, span=(15, 40)) == "address-1"
    assert stated("오후 다섯 시에 닫습니다.", taken, sha256="3f", page=2, span=(20, 40)) == ""
    assert stated("오후 다섯 시에 닫습니다.", taken, sha256="3f", page=3, span=(15, 40)) == ""
    assert stated("오후 다섯 시에 닫습니다.", taken, sha256="99", page=2, span=(15, 40)) == ""
    assert stated("오후 다섯 시에 닫습니다.", taken, page=2, span=(15, 40)) == ""
