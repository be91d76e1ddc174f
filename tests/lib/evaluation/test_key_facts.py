"""The score of facts, on the answers that overlap metrics get wrong."""

import pytest

from stages.lib.evaluation.key_facts import key_exact, key_of, key_recall

KEY = ["초롱돌로 417", "6층"]


@pytest.mark.parametrize(
    ("answer", "exact", "recall"),
    [
        ("달여울시민청 주소는 달여울시 초롱돌로 417, 6층입니다.", 1, 1),
        ("초롱돌로 417 6 층", 1, 1),
        ("초롱돌로417,6층", 1, 1),
        ("초롱돌로 413, 6층입니다.", 0, 0.5),
        ("초롱돌로 4170, 16층입니다.", 0, 0),
        ("초롱돌로 417, 21층입니다.", 0, 0.5),
        ("초롱돌로 417, 6층 또는 7층입니다.", 0, 1),
        ("", 0, 0),
    ],
)
def test_address(answer, exact, recall):
    assert key_exact(KEY, answer) == exact
    assert key_recall(KEY, answer) == recall


def test_thousands_separators_and_width_do_not_matter():
    assert key_exact(["12,500원"], "수수료는 12500원입니다.") == 1
    assert key_exact(["12500원"], "수수료는 １２,５００ 원입니다.") == 1
    assert key_exact(["12,500원"], "수수료는 112,500원입니다.") == 0


def test_a_reference_without_key_gives_its_numbers_and_names():
    assert key_of("문의는 help@dal.example, 099-519-7480입니다.") == ["help@dal.example", "099-519-7480"]
    assert key_of("'달빛' 강좌는 3명") == ["달빛", "3"]


def test_no_key_is_an_error():
    with pytest.raises(ValueError, match="no key"):
        key_recall([], "x")
