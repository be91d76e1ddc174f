"""Spacing and punctuation don't tell questions apart; numbers and what stands between them do."""

import subprocess
import sys

import pytest

from stages.lib.data.comparison import hash_of, letters, trigrams


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("여권과, 어디?", "여권과 어디"),
        ("“여권과” 어디…", "여권과_어디"),
        ("What is DNA?", "what is dna"),
        ("ＤＮＡ는 무엇인가요？", "DNA는 무엇인가요?"),
        ("2031. 3. 4.까지", "2031.3.4까지"),
    ],
)
def test_what_a_typist_varies(one: str, other: str) -> None:
    assert letters(one) == letters(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("수수료는 1.5 % 인가요?", "수수료는 15 % 인가요?"),
        ("What is 3 + 1?", "What is 3 - 1?"),
        ("What is 12?", "What is 1 * 2?"),
        ("C++에서 배열은?", "C에서 배열은?"),
        ("a < b", "a > b"),
    ],
)
def test_what_makes_another_question(one: str, other: str) -> None:
    assert letters(one) != letters(other)


def test_trigrams() -> None:
    assert trigrams("가나다라") == {"가나다", "나다라"}
    assert trigrams("가나") == {"가나"} and trigrams("") == set()


def test_hashes_are_equal_in_every_process() -> None:
    code = "from stages.lib.data.comparison import hash_of; print(hash_of('여권'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == hash_of("여권") != hash_of("여권과")
