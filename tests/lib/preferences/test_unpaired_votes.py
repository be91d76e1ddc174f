"""Votes on one answer: trl's format, each defect by file and line, nothing that evaluation asks."""

from pathlib import Path
from typing import Any

import pytest

from stages.lib.data.jsonl_reader import Line, Rejected
from stages.lib.data.near_duplicates import KnownQuestions
from stages.lib.every_stage.records import write_jsonl
from stages.lib.preferences.unpaired_votes import FILE, Judged, admit, judged_alone, read_unpaired

QUESTION = "주차는 얼마인가요?"


def vote(**changes: Any) -> dict[str, Any]:
    return {"prompt": QUESTION, "completion": "처음 55분은 무료입니다.", "label": True} | changes


def turn(role: str, content: str = QUESTION) -> dict[str, str]:
    return {"role": role, "content": content}


def admitted(value: object) -> Judged:
    found = admit(Line("unpaired.jsonl:1", value))
    assert isinstance(found, Judged), found
    return found


def test_trls_plain_and_conversational_formats_are_one() -> None:
    plain = admitted(vote())
    messages = {"prompt": [turn("user")], "completion": [turn("assistant", "처음 55분은 무료입니다.")]}
    assert admitted(vote(**messages)).record() == plain.record()
    assert plain.record() | {"id": ""} == {
        "id": "", "source": "votes", "prompt": [turn("user")], "completion": "처음 55분은 무료입니다.", "label": True
    }  # fmt: skip


def test_several_turns_and_a_system_message_are_kept() -> None:
    prompt = [turn("system", "짧게."), turn("user", "안녕?"), turn("assistant", "네."), turn("user")]
    found = admitted(vote(prompt=prompt))
    assert found.prompt == prompt and found.question == QUESTION
    assert found.conversations() == [[*prompt, turn("assistant", "처음 55분은 무료입니다.")]]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("a text", "wrong_type"),
        ({"prompt": QUESTION, "completion": "네."}, "missing_field"),
        (vote(label="up"), "wrong_type"),
        (vote(label=1), "wrong_type"),
        (vote(completion=" "), "blank_content"),
        (vote(completion="Half \ufffd of it."), "mojibake"),
        (vote(prompt=[]), "turns_do_not_alternate"),
        (vote(prompt=[turn("system")]), "turns_do_not_alternate"),
        (vote(prompt=[turn("user"), turn("assistant", "네.")]), "turns_do_not_alternate"),
        (vote(prompt=[turn("user"), turn("system"), turn("user")]), "turns_do_not_alternate"),
        (vote(prompt=[turn("tool")]), "wrong_type"),
        (vote(completion=[turn("assistant"), turn("assistant")]), "more_than_an_answer"),
        (vote(completion=[turn("user")]), "more_than_an_answer"),
        (vote(completion=[]), "more_than_an_answer"),
    ],
)
def test_each_defect_has_its_reason_and_its_line(tmp_path: Path, value: object, reason: str) -> None:
    write_jsonl(tmp_path / FILE, [vote(), value])  # type: ignore[list-item]
    _, found = read_unpaired(tmp_path)
    assert isinstance(found, Rejected)
    assert (found.reason, found.where) == (reason, f"{tmp_path / FILE}:2")


def test_no_file_is_no_votes(tmp_path: Path) -> None:
    assert read_unpaired(tmp_path) == []


def used(*values: dict[str, Any], asked: str = "", held_out: str = "") -> list[str]:
    """Why each vote isn't used; an empty text where it is."""
    known = KnownQuestions()
    if asked:
        known.add("seen 1", asked)
    votes = [admit(Line(f"unpaired.jsonl:{number}", value)) for number, value in enumerate(values, start=1)]
    return [each.reason if isinstance(each, Rejected) else "" for each in judged_alone(votes, known, {held_out} - {""})]


def test_who_agrees_teaches_once_and_who_contradicts_teaches_nothing() -> None:
    other = vote(completion="비쌉니다.", label=False)
    assert used(vote(), vote(prompt="주차는  얼마인가요"), other) == ["", "duplicate_vote", ""]
    assert used(vote(), vote(label=False), other) == ["vote_conflicting", "vote_conflicting", ""]


def test_a_truncated_answer_is_no_example_and_may_be_a_bad_one() -> None:
    assert used(vote(stopped=False)) == ["vote_for_cut_answer"]
    assert used(vote(stopped=False, label=False)) == [""]


def test_what_evaluation_asks_is_left_out() -> None:
    assert used(vote(), asked="주차는 얼마인가요") == ["vote_on_evaluation_question"]
    assert used(vote(), held_out="주차는얼마인가요") == ["vote_on_held_out_pair"]
