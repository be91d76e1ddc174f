"""Votes as they are read: what makes a preference pair, what doesn't and why, and whose weights were voted on."""

from pathlib import Path
from typing import Any

import pytest

from stages.lib.data.jsonl_reader import Rejected
from stages.lib.data.near_duplicates import KnownQuestions
from stages.lib.evaluation.verdicts import by_models, judged
from stages.lib.every_stage.records import write_jsonl
from stages.lib.preferences.preference_pairs import Pair
from stages.lib.preferences.voted_pairs import UNUSED, voted_pairs
from stages.lib.preferences.votes import FILE, Vote, read_votes
from tests.ballots import BASE, DPO, vote

ASKED = "반딧불도서관은 매월 몇째 주 무슨 요일에 문을 열지 않고 하루를 쉬나요?"


def swapped(row: dict[str, Any]) -> dict[str, Any]:
    """The same vote with the answers on the other sides."""
    other = {"first": "second", "second": "first"}
    turned = {name: row[name] for name in row if name.split("_")[0] not in other}
    for one, two in other.items():
        turned |= {name.replace(one, two, 1): row[name] for name in row if name.split("_")[0] == one}
    return turned | {"verdict": other.get(row["verdict"], row["verdict"])}


def read(folder: Path, rows: list[Any]) -> list[Vote | Rejected]:
    write_jsonl(folder / FILE, rows)
    return read_votes(folder)


def pairs_of(folder: Path, rows: list[Any]) -> tuple[list[Pair], list[str]]:
    """Pairs, and the reasons of what became none."""
    asked = KnownQuestions()
    asked.add("seen library-2", ASKED)
    found = list(voted_pairs(read(folder, rows), asked))
    assert len(found) == len(rows)
    return [one for one in found if isinstance(one, Pair)], [one.reason for one in found if isinstance(one, Rejected)]


def test_a_vote_makes_a_pair_of_the_answers_as_shown_whichever_side_they_stood_on(tmp_path: Path) -> None:
    for row in (vote(), swapped(vote())):
        (pair,), reasons = pairs_of(tmp_path, [row])
        assert (pair.question, pair.chosen, pair.rejected) == (
            "0번 창구는 어디인가요?",
            "0층입니다.",
            "I like windows.",
        )
        assert reasons == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"verdict": "tie"}, "vote_tie"),
        ({"verdict": "both_bad"}, "vote_both_bad"),
        ({"question": ASKED.replace(" ", "")}, "vote_on_evaluation_question"),
        ({"first_stopped": False}, "vote_for_cut_answer"),
        ({"second_answer": " "}, "vote_unfit"),
        ({"second_answer": "Half \ufffd of it."}, "vote_unfit"),
        ({"verdict": "third"}, "wrong_type"),
        ({"first": "gpt"}, "wrong_type"),
        ({"first_weights_sha256": "<b>"}, "wrong_type"),
        ({"question": None}, "wrong_type"),
    ],
)
def test_every_other_vote_has_its_reason(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    pairs, reasons = pairs_of(tmp_path, [vote(1), vote(**changes)])
    assert (len(pairs), reasons) == (1, [reason])


def test_lines_that_are_no_votes_are_rejected_and_named(tmp_path: Path) -> None:
    lines = ["5", '{"id": "a"}', '{"id": "a', "[]"]
    (tmp_path / FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = read_votes(tmp_path)
    assert [one.reason for one in found] == ["wrong_type", "missing_field", "invalid_json", "wrong_type"]
    assert f"{tmp_path / FILE}:2" == found[1].where


def test_who_agree_count_once_and_who_contradict_not_at_all(tmp_path: Path) -> None:
    agreed = [vote(1), swapped(vote(1, id="again", question="1번  창구는 어디인가요"))]
    contradicting = [vote(2), vote(2, id="other", verdict="second", second_stopped=True), vote(2, id="third")]
    undecided = [vote(3), vote(3, id="tie", verdict="tie")]
    pairs, reasons = pairs_of(tmp_path, [*agreed, *contradicting, *undecided])
    assert [pair.vote for pair in pairs] == ["v1", "v3"]
    assert reasons == ["duplicate_vote", *["vote_conflicting"] * 3, "vote_tie"]


def test_other_answers_to_one_question_are_other_pairs(tmp_path: Path) -> None:
    pairs, _ = pairs_of(tmp_path, [vote(), vote(id="more", second_answer="A hat.")])
    assert len({pair.record()["id"] for pair in pairs}) == 2


def test_a_name_is_no_version(tmp_path: Path) -> None:
    rows = [vote(1), swapped(vote(2)), vote(3, first_weights_sha256="e" * 64), vote(4, verdict="both_bad")]
    votes = [one for one in read(tmp_path, rows) if isinstance(one, Vote)]
    by_pair = by_models(votes, {BASE, DPO})
    assert {pair: len(rows) for pair, rows in by_pair.items()} == {("dpo", "base"): 3, ("dpo@eeeeeee", "base"): 1}
    figures = judged(("dpo", "base"), by_pair["dpo", "base"], 50, 1)
    assert (figures["win"], figures["tie"], figures["loss"]) == (2, 1, 0)
    assert figures["win_rate"]["value"] == pytest.approx(2.5 / 3, abs=1e-3)
    assert figures["first_position_rate"]["value"] == 0.5


def test_nobody_voted_yet(tmp_path: Path) -> None:
    assert read_votes(tmp_path) == []
    assert len(set(UNUSED)) == 6
