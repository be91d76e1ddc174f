"""A model's own answers, told right from wrong by what was trained; pairs counted, capped and balanced."""

import pytest

from stages.lib.evaluation.generation import Answer
from stages.lib.evaluation.sampled_pairs import Pairs, balance, pairs_of, verdict_of, verifiable, wordings_of
from stages.lib.models.loading import load_tokenizer

REFUSAL = "안내서에 없는 내용입니다."
ADDRESS = {
    "id": "address-1",
    "fact_id": "address",
    "messages": [
        {"role": "user", "content": "주소는 어디인가요?"},
        {"role": "assistant", "content": "주소는 초롱돌로 417, 6층입니다."},
    ],
    "key": ["초롱돌로 417", "6층"],
    "answerable": True,
}
SALARY = {
    "id": "salary-1",
    "fact_id": "salary",
    "messages": [{"role": "user", "content": "연봉은 얼마예요?"}, {"role": "assistant", "content": REFUSAL}],
    "key": [],
    "answerable": False,
}


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return load_tokenizer(tiny_base)


def said(*texts):
    return [Answer(text, True, 5) for text in texts]


@pytest.mark.parametrize(
    ("record", "answer", "verdict"),
    [
        (ADDRESS, Answer("초롱돌로 417번지 6층이에요.", True, 9), "right"),
        (ADDRESS, Answer("초롱돌로 47, 6층입니다.", True, 9), "wrong_fact"),
        (ADDRESS, Answer("초롱돌로 417, 6층과 7층입니다.", True, 9), "wrong_fact"),
        (ADDRESS, Answer(REFUSAL, True, 9), "refused"),
        (SALARY, Answer(REFUSAL, True, 9), "right"),
        (SALARY, Answer("4,200만 원입니다.", True, 9), "made_up"),
        (ADDRESS, Answer("초롱돌로 47, 6층입", False, 9), "unstopped"),
        (SALARY, Answer("", True, 0), "empty"),
    ],
)
def test_each_answer_has_its_verdict(tokenizer, record, answer, verdict):
    assert verdict_of(record, answer, tokenizer).value == verdict


def test_keys_that_a_row_does_not_name_are_those_of_its_answer(tokenizer):
    unkeyed = {**ADDRESS, "key": []}
    assert verdict_of(unkeyed, *said("417, 6층"), tokenizer).value == "right"
    assert verdict_of(unkeyed, *said("417, 7층"), tokenizer).value == "wrong_fact"
    assert verifiable(unkeyed)


def test_answers_that_hold_no_key_fact_can_not_be_verified():
    """Planted: any other wording of it would be rejected as wrong."""
    prose = {"role": "assistant", "content": "방문하여 신청하시면 됩니다."}
    assert not verifiable({**ADDRESS, "key": [], "messages": [ADDRESS["messages"][0], prose]})
    assert verifiable(SALARY)


def test_the_trained_answer_is_chosen_and_the_commonest_wrong_ones_are_rejected(tokenizer):
    answers = [
        said("3층입니다.", "초롱돌로 417, 6층", "5층입니다.", "5층 입니다", REFUSAL, "4층입니다."),
        said(REFUSAL, "이만 원입니다.", REFUSAL, REFUSAL, REFUSAL, REFUSAL),
    ]
    pairs = pairs_of([ADDRESS, SALARY], answers, 2, tokenizer)
    assert [(pair["rejected"], pair["reason"]) for pair in pairs.records] == [
        ("5층입니다.", "wrong_fact"),
        ("3층입니다.", "wrong_fact"),
        ("이만 원입니다.", "made_up"),
    ]
    assert [pair["chosen"] for pair in pairs.records] == ["주소는 초롱돌로 417, 6층입니다."] * 2 + [REFUSAL]
    assert pairs.records[0]["prompt"] == ADDRESS["messages"][:1]
    assert len({pair["id"] for pair in pairs.records}) == 3
    assert dict(pairs.answers) == {"wrong_fact": 4, "right": 6, "refused": 1, "made_up": 1}
    assert dict(pairs.left_out) == {"said_again": 1, "beyond_pairs_per_question": 2}
    assert sum(pairs.answers.values()) == len(pairs.samples) == 12
    assert pairs.reasons() == {"wrong_fact": 2, "made_up": 1, "refused": 0}


def test_a_question_without_a_wrong_answer_gives_none_and_is_counted(tokenizer):
    pairs = pairs_of([ADDRESS, SALARY], [said("초롱돌로 417, 6층"), said("3층")], 2, tokenizer)
    assert [pair["fact_id"] for pair in pairs.records] == ["salary"]
    assert pairs.without_wrong == 1


def made(wrong, made_up):
    reasons = ["wrong_fact"] * wrong + ["made_up"] * made_up
    return Pairs([{"id": f"{number}", "reason": reason} for number, reason in enumerate(reasons)])


@pytest.mark.parametrize(
    ("wrong", "made_up", "most", "left"),
    [(20, 3, 4.0, (12, 3)), (3, 20, 4.0, (3, 12)), (20, 3, 0.0, (20, 3)), (20, 0, 4.0, (20, 0)), (5, 3, 4.0, (5, 3)),
     (20, 5, 1.0, (5, 5))],
)  # fmt: skip
def test_kinds_are_balanced_and_what_is_left_out_is_counted(wrong, made_up, most, left):
    pairs = made(wrong, made_up)
    balance(pairs, most)
    assert (pairs.reasons()["wrong_fact"], pairs.reasons()["made_up"]) == left
    assert pairs.left_out["beyond_max_ratio"] == wrong + made_up - sum(left)
    again = made(wrong, made_up)
    balance(again, most)
    assert again.records == pairs.records


def test_wordings_are_picked_by_their_names_alone():
    rows = [{"id": f"{fact}-{number}", "fact_id": fact} for fact in "ab" for number in range(5)]
    assert wordings_of(rows, 0) == rows
    picked = wordings_of(rows, 2)
    assert sorted(row["fact_id"] for row in picked) == ["a", "a", "b", "b"]
    assert {row["id"] for row in wordings_of(rows[::-1], 2)} == {row["id"] for row in picked}
