"""Mojibake is undone only without loss, and text that is none stays as it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.data.characters import fix

KOREAN = "무인민원발급기는 몇 시까지 쓸 수 있나요?"


@pytest.mark.parametrize("codec", ["latin-1", "cp1252"])
def test_lossless_mojibake_is_undone(codec: str) -> None:
    broken = "".join(
        bytes([byte]).decode(codec if byte not in b"\x81\x8d\x8f\x90\x9d" else "latin-1") for byte in KOREAN.encode()
    )
    assert fix(broken).text == KOREAN and fix(broken).done == ["mojibake"]


@pytest.mark.parametrize("codec", ["cp1253", "cp1251", "cp949"])
def test_lossy_mojibake_is_named(codec: str) -> None:
    assert f"read as {codec}" in fix(KOREAN.encode().decode(codec, "ignore")).unreadable


@pytest.mark.parametrize(
    "text",
    ["Où est le café très cher à côté de l'hôtel ?", "Καλημέρα, πού είναι η βιβλιοθήκη;", "Где находится библиотека?",
     "図書館はどこですか", "圖書館在哪裡？", "Größe: 5 µm ± 0,1 €", "👨‍👩‍👧 가족은 몇 명인가요?",
     "첫 줄\n둘째 줄\t끝", "مرحبا بالعالم"],
)  # fmt: skip
def test_sound_text_stays(text: str) -> None:
    fixed = fix(text)
    assert (fixed.text, fixed.done, fixed.unreadable) == (text, [], "")


@given(st.text(alphabet=st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), min_size=1))
def test_korean_stays(text: str) -> None:
    assert fix(text).text == text


@given(st.text())
def test_fixing_twice_changes_nothing(text: str) -> None:
    once = fix(text)
    if not once.unreadable:
        assert fix(once.text).text == once.text
