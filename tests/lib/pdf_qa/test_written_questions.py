"""What is whole in a model's response is used, whatever is around it; what isn't is named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.pdf_qa.written_questions import question_prompt, usable, without_thinking, written_in
from stages.lib.schema.choices import QuestionKind

ONE = {
    "kind": "fact",
    "questions": ["여권은 며칠 만에 나오나요?", "여권 발급에 며칠 걸리나요?"],
    "answer": "나흘 걸립니다.",
}
TWO = {"kind": "reason", "questions": ["왜 나흘이 걸리나요?"], "answer": "심사를 하기 때문입니다."}
BOTH = json.dumps([ONE, TWO], ensure_ascii=False, indent=1)


@pytest.mark.parametrize(
    "response",
    [
        BOTH,
        f"```json\n{BOTH}\n```",
        f"Here they are:\n\n{BOTH}\n\nI hope {{this}} helps.".replace("{this}", "this"),
        f"<think>The text says [나흘] … {{\"question\": \"?\", \"answer\": \"!\"}}</think>\n{BOTH}",
        f"It may ask about {{days}}, so …\n</think>\n\n{BOTH}",
        json.dumps({"pairs": [ONE, TWO]}, ensure_ascii=False),
        json.dumps(ONE, ensure_ascii=False) + "\n" + json.dumps(TWO, ensure_ascii=False),
    ],
    ids=["bare", "fenced", "talk", "thinking", "thinking opened by the prompt", "wrapped", "lines"],
)  # fmt: skip
def test_pairs_are_found_whatever_is_around_them(response: str) -> None:
    pairs, complaints = written_in(response)
    assert [(pair.questions, pair.answer, pair.kind) for pair in pairs] == [
        (each["questions"], each["answer"], each["kind"]) for each in (ONE, TWO)
    ]
    assert complaints == [] and usable(response)


def test_the_whole_pairs_of_a_truncated_response_are_used_and_the_cut_is_named() -> None:
    cut = BOTH[: BOTH.index("심사를")]
    for response in (cut, f"```json\n{cut}", '{"pairs": ' + cut):
        pairs, complaints = written_in(response)
        assert [pair.answer for pair in pairs] == [ONE["answer"]]
        assert len(complaints) == 1 and "truncated" in complaints[0] and "raise max_new_tokens" in complaints[0]
        assert usable(response)


def test_one_question_under_other_names_is_a_pair_and_a_line_break_in_a_text_is_fine() -> None:
    response = '[{"질문": "어디인가요?", "답변": "첫 줄\n둘째 줄"}, {"question": "언제인가요?", "answer": "낮"}]'
    pairs, complaints = written_in(response)
    assert [(pair.questions, pair.answer, pair.kind) for pair in pairs] == [
        (["어디인가요?"], "첫 줄\n둘째 줄", ""), (["언제인가요?"], "낮", "")
    ]  # fmt: skip
    assert complaints == []


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("죄송합니다.", "no JSON array"),
        ("", "no JSON array"),
        ("<think>I wonder whether", "ends while it thinks; raise max_new_tokens"),
        ('[{"question": "?"}]', "no question and answer as texts"),
        ('[{"questions": ["", 3], "answer": "x"}]', "no question and answer as texts"),
        ('[{"questions": ["?"], "answer": " "}]', "no question and answer as texts"),
        ('[{"question": "어디', "truncated"),
    ],
)
def test_a_response_without_a_pair_says_why_and_is_asked_for_again(response: str, said: str) -> None:
    pairs, complaints = written_in(response)
    assert pairs == [] and said in complaints[0] and not usable(response)


def test_a_model_may_find_nothing_to_ask() -> None:
    assert written_in("```json\n[ ]\n```") == ([], []) and usable("[]")


@given(st.text() | st.text(alphabet='[]{}":,ab<think>/ \n'))
def test_no_response_is_passed_over_without_a_word(response: str) -> None:
    pairs, complaints = written_in(response)
    assert pairs or complaints or "[]" in "".join(without_thinking(response).split())
    assert all(pair.questions and pair.answer for pair in pairs)


def test_the_prompt_is_in_the_documents_language_and_names_kinds_and_wordings() -> None:
    kinds = [QuestionKind.reason, QuestionKind.fact]
    korean = question_prompt("글 {내용}", "안내서", True, kinds, 2)
    assert "글 {내용}" in korean and "문서: 안내서" in korean and "reason: 왜 그런지" in korean and "2개" in korean
    assert '"kind": "reason", "questions": ["…", "…"]' in korean and "procedure" not in korean
    english = question_prompt("Text", "Guide", False, kinds, 3)
    assert "in the language of the text" in english and "fact: asks what" in english and "3 different" in english
    assert not any("가" <= char <= "힣" for char in english)
