"""A decision holds for its words and for no others; what became of each is told."""

from pathlib import Path
from typing import Any

import pytest

from stages.lib.every_stage.records import write_jsonl
from stages.lib.pdf_qa.grounding import UNGROUNDED
from stages.lib.pdf_qa.qa_rows import UNCLEAR
from stages.lib.pdf_qa.rating import RATED
from stages.lib.pdf_qa.review_decisions import FILE, LEFT_OUT, OVERRULED, Decision, Review, read_decisions, told

WORDS = ("몇 시에 여나요?", "9시에 엽니다.")
BETTER = ("도서관은 몇 시에 여나요?", "9시에 엽니다.")
BEST = ("도서관은 몇 시에 여나요?", "아침 9시에 엽니다.")


def decision(kind: str, words: tuple[str, str] = WORDS, new: tuple[str, str] = ("", ""), **more: str) -> Decision:
    question, answer = words
    new_question, new_answer = new
    return Decision.model_validate({
        "id": f"{kind}-{hash((words, new))}", "decision": kind, "row": "guide-3-2", "question": question,
        "answer": answer, "new_question": new_question, "new_answer": new_answer, **more,
    })  # fmt: skip


def outcome(review: Review, words: tuple[str, str] = WORDS) -> tuple[str, str, str]:
    verdict = review.verdict(("guide-3-2",), *words)
    return verdict.decision, verdict.question, verdict.answer


def test_of_two_decisions_the_later_holds_and_undo_brings_the_earlier_back() -> None:
    accept, reject = decision("accept"), decision("reject")
    undo = Decision(id="u", decision="undo", undoes=reject.id)
    assert outcome(Review([accept, reject]))[0] == "reject"
    assert outcome(Review([accept, reject, undo]))[0] == "accept"
    assert outcome(Review([accept, reject, undo, Decision(id="v", decision="undo", undoes=accept.id)]))[0] == ""


def test_what_an_edit_made_may_be_decided_about_in_its_turn() -> None:
    edits = [decision("edit", WORDS, BETTER), decision("edit", BETTER, BEST)]
    assert outcome(Review(edits)) == ("edit", *BEST)
    assert outcome(Review([*edits, decision("reject", BEST)]))[0] == "reject"
    assert outcome(Review([*edits, decision("accept", BEST)])) == ("edit", *BEST)
    there_and_back = Review([edits[0], decision("edit", BETTER, WORDS)])
    assert outcome(there_and_back) == ("edit", *WORDS)


@pytest.mark.parametrize("kind", ["reject", "edit"])
def test_what_is_not_wanted_does_not_come_in_by_a_double(kind: str) -> None:
    review = Review([decision(kind, WORDS, BETTER if kind == "edit" else ("", ""))])
    duplicate = ("몇  시에 여나요", "9시에 엽니다")
    assert outcome(review, duplicate)[0] == "reject"
    assert "guide-3-2" in review.verdict(("other",), *duplicate).detail
    assert outcome(Review([decision(kind, WORDS, BEST), decision("accept", duplicate)]), duplicate)[0] == "accept"


def test_a_changed_row_is_told_from_one_that_is_gone() -> None:
    review = Review([decision("reject"), decision("reject", BEST, row="guide-9-9")])
    assert review.verdict(("guide-3-2",), "몇 시에 닫나요?", "9시에 엽니다.").decision == ""
    summary = review.summary(["guide-1-1 (too_long_tokens: 900)"])
    assert (summary["changed"], summary["gone"]) == (["guide-3-2"], ["guide-9-9"])
    text = "\n".join(told(summary))
    assert "text has changed" in text and "guide-3-2" in text and "guide-9-9" in text and "too_long_tokens" in text
    assert told({}) == []


def test_other_words_are_never_decided_about() -> None:
    review = Review([decision("reject"), decision("edit", BEST, BETTER)])
    for words in (("몇 시에 닫나요?", WORDS[1]), (WORDS[0], "10시에 엽니다."), (WORDS[1], WORDS[0])):
        assert outcome(review, words) == ("", *words)


def test_all_gates_that_an_acceptance_overrules_are_said_to_be_such() -> None:
    """Those of one row by itself, but for what a setting forbids; the page offers no other acceptance."""
    assert set(OVERRULED) == {*UNGROUNDED, *RATED, *UNCLEAR, "conflict", *LEFT_OUT} - {"pii"}


DAMAGED: list[tuple[Any, str]] = [
    ({"id": "a", "decision": "delete"}, "decision"),
    ({"id": "a", "decision": "reject", "question": 1}, "question"),
    ({"id": "a", "decision": "reject", "by": "me"}, "by"),
    (
        {"id": "a", "decision": "edit", "question": "?", "answer": "!", "new_question": " ", "new_answer": "!"},
        "visible",
    ),
    (["reject"], "the line"),
]


@pytest.mark.parametrize(("line", "named"), DAMAGED)
def test_a_line_that_is_no_decision_is_named_and_takes_no_other_with_it(tmp_path: Path, line: Any, named: str) -> None:
    path = tmp_path / FILE.name
    write_jsonl(path, [line, decision("reject").model_dump()])
    with path.open("a", encoding="utf-8") as file:
        file.write('{"id": "half')
    decisions, damaged = read_decisions(path)
    assert [one.decision for one in decisions] == ["reject"]
    assert [reject.where.removeprefix(str(path)).split(":")[1] for reject in damaged] == ["1", "3"]
    assert named in damaged[0].detail
    assert read_decisions(tmp_path / "none.jsonl") == ([], [])
