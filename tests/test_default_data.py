"""The data that ship: large enough for a claim, and no evaluation question is trained on or nearly so."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from stages.lib.data.comparison import letters
from stages.lib.data.near_duplicates import similarity
from stages.lib.evaluation.text_scores import refusal
from stages.lib.every_stage.records import read_jsonl

SIMILAR = 0.7
"""Jaccard similarity of character trigrams from which a held-out wording is nearly a trained one."""
DEFECTS = {"wrong_number", "other_fact", "evasive", "rambling", "wrong_language", "made_up", "refused"}


def rows(prepared: Path, name: str) -> list[dict[str, Any]]:
    return list(read_jsonl(prepared / f"data/prepared/{name}.jsonl"))


def questions(found: list[dict[str, Any]]) -> list[str]:
    return [row["messages"][0]["content"] for row in found]


def raw(name: str) -> list[dict[str, Any]]:
    return list(read_jsonl(ROOT / f"data/raw/{name}.jsonl"))


@pytest.fixture(scope="module")
def pairs() -> dict[str, dict[str, Any]]:
    """The shipped preference pairs by what they ask."""
    return {row["input"]: row for row in raw("preferences/preferences")}


def test_each_set_is_large_enough_for_a_claim(prepared: Path) -> None:
    seen = Counter(row["fact_id"] for row in rows(prepared, "pdf_qa/seen"))
    assert len(seen) == 30 and set(seen.values()) == {3}
    train = Counter(row["fact_id"] for row in rows(prepared, "pdf_qa/train") if row["answerable"])
    assert train.keys() == seen.keys() and set(train.values()) == {8}
    assert len(rows(prepared, "pdf_qa/unanswerable")) == 114
    assert sum(not row["answerable"] for row in rows(prepared, "pdf_qa/train")) == 40
    control = Counter(row["set"] for row in rows(prepared, "ultrachat/evaluation"))
    assert control == {"en": 44, "ko": 24}
    assert len(rows(prepared, "preferences/evaluation")) == 109


def test_no_held_out_wording_is_nearly_a_trained_one(prepared: Path) -> None:
    trained = defaultdict(list)
    for row in rows(prepared, "pdf_qa/train"):
        trained[row["fact_id"]].append(row["messages"][0]["content"])
    for row in rows(prepared, "pdf_qa/seen"):
        asked = row["messages"][0]["content"]
        assert all(similarity(asked, other) < SIMILAR for other in trained[row["fact_id"]]), asked
    refused = [row["messages"][0]["content"] for row in rows(prepared, "pdf_qa/train") if not row["answerable"]]
    for asked in questions(rows(prepared, "pdf_qa/unanswerable")):
        assert all(similarity(asked, other) < 0.5 for other in refused), asked


def test_no_key_stands_in_a_question_or_in_another_fact() -> None:
    facts = defaultdict(set)
    asked = [row["instruction"] for row in raw("pdf_qa/office-guide")]
    for row in raw("pdf_qa/office-guide"):
        for key in row["key"]:
            facts[key].add(row["fact_id"])
    assert [key for key, found in facts.items() if len(found) > 1] == []
    assert [(key, text) for key in facts for text in asked if key in text] == []


def test_a_refusal_says_what_is_not_in_the_guide() -> None:
    answers = [row["output"] for row in raw("pdf_qa/office-guide") if not row["answerable"]]
    assert len(set(answers)) == len(answers) == 154
    assert all(refusal(text) and text.endswith((" 안내서에 없는 내용입니다.",)) for text in answers)
    assert not any(refusal(row["output"]) for row in raw("pdf_qa/office-guide") if row["answerable"])


def test_pairs_ask_in_words_of_their_own_and_about_no_held_out_fact(prepared: Path, pairs: dict[str, Any]) -> None:
    asked = [row["instruction"] for row in raw("pdf_qa/office-guide")]
    assert [(one, other) for one in pairs for other in asked if similarity(one, other) >= SIMILAR] == []
    held_out = {row["fact_id"] for name in ("unseen", "unanswerable") for row in rows(prepared, f"pdf_qa/{name}")}
    assert not held_out & {row["fact_id"] for row in pairs.values()}


def test_held_out_pairs_have_every_defect_and_share_no_wording_with_trained_ones(
    prepared: Path, pairs: dict[str, Any]
) -> None:
    split = {
        name: [row["prompt"][-1]["content"] for row in rows(prepared, f"preferences/{name}")]
        for name in ("train", "evaluation")
    }
    assert not {letters(text) for text in split["train"]} & {letters(text) for text in split["evaluation"]}
    defects = Counter(pairs[text]["defect"] for text in split["evaluation"])
    assert defects.keys() == DEFECTS and min(defects.values()) >= 3


def test_length_says_nothing_about_which_answer_is_chosen(prepared: Path) -> None:
    kept = [row for name in ("train", "evaluation") for row in rows(prepared, f"preferences/{name}")]
    chosen, rejected = ([len(row[side]) for row in kept] for side in ("chosen", "rejected"))
    assert abs(sum(chosen) / sum(rejected) - 1) < 0.03
    assert 0.45 < sum(a > b for a, b in zip(chosen, rejected, strict=True)) / len(kept) < 0.55


@pytest.mark.parametrize(("name", "language"), [("chat_en", False), ("chat_ko", True)])
def test_a_chats_answers_are_in_its_language_and_not_about_the_office(name: str, language: bool) -> None:
    for chat in raw(f"ultrachat/{name}"):
        text = " ".join(message["content"] for message in chat["messages"])
        hangul = sum("가" <= letter <= "힣" for letter in text) / sum(letter.isalpha() for letter in text)
        assert (hangul > 0.8) == language, chat["prompt"]
        assert "달여울" not in text and "시민청" not in text
