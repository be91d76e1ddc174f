"""Overlap scores keep Hangul, and know a refusal and a loop."""

import pytest

from stages.lib.evaluation.text_scores import (
    OVERLAP,
    bleu,
    chrf,
    korquad_exact,
    korquad_f1,
    refusal,
    repetition,
    rouge_l,
    signatures,
)

ADDRESS = "달여울시민청 주소는 달여울시 초롱돌로 417, 6층입니다."


@pytest.mark.parametrize("name", OVERLAP)
def test_equal_texts_score_full_and_texts_without_a_common_word_little(name):
    assert OVERLAP[name](ADDRESS, ADDRESS) == pytest.approx(1)
    assert OVERLAP[name]("The office opens at 9.", "The office opens at 9.") == pytest.approx(1)
    assert OVERLAP[name](ADDRESS, "네.") < 0.1
    assert OVERLAP[name](ADDRESS, "") == 0


def test_every_overlap_score_takes_a_wrong_address_for_nearly_right():
    """Why key_exact is the headline: these can't tell."""
    wrong = ADDRESS.replace("417", "413")
    assert chrf(ADDRESS, wrong) > 0.8
    assert korquad_f1(ADDRESS, wrong) > 0.9
    assert rouge_l(ADDRESS, wrong) > 0.7


def test_rouge_counts_words_in_order():
    assert rouge_l("가 나 다 라", "가 다 라 마") == pytest.approx(0.75)
    assert rouge_l("초롱돌로 417", "달무리길 417") == pytest.approx(0.5)  # digits alone would give 1


def test_bleu_splits_korean_into_morphemes():
    """The same noun with another particle: split at spaces, no word would be common."""
    assert bleu("도서관은", "도서관이") > 0.3
    assert bleu("도서관은", "보건소가") == 0


def test_korquad_rules():
    assert korquad_exact("초롱돌로 417", "「초롱돌로 417」") == 0  # not in KorQuAD's list of symbols
    assert korquad_exact("초롱돌로 417", "《초롱돌로》 417.") == 1
    assert korquad_f1("가나다라", "가나") == pytest.approx(2 / 3)
    assert korquad_f1("417", "741") == 1  # a bag of characters


@pytest.mark.parametrize(
    "text",
    ["안내서에 없는 내용입니다.", "안내서에는 나와 있지 않습니다.", "그 내용은 확인할 수 없습니다.", "잘 모르겠습니다.",
     "The guide does not say."],
)  # fmt: skip
def test_refusals_are_seen(text):
    assert refusal(text) == 1


@pytest.mark.parametrize("text", [ADDRESS, "주차 요금은 없습니다.", "", "I know the address: Lantern road 417."])
def test_answers_are_no_refusals(text):
    assert refusal(text) == 0


def test_repetition():
    assert repetition("주소는 초롱돌로 417 이고 6층입니다") == 0
    assert repetition("길 이 길 이 " * 20) > 0.9
    assert repetition("짧다") == 0


def test_signatures_name_the_tokenizer():
    assert "tok:ko-mecab" in signatures()["bleu"]
    assert "nw:2" in signatures()["chrf"]
