"""Does an answer state the facts, and no others? The headline score for questions from PDFs.

Overlap metrics rank a wrong address above a right short answer, since the two share most characters. Here a row's
key strings must occur: ["초롱돌로 417", "6층"] is found in "초롱돌로 417번지 6 층", not in "초롱돌로 4170, 16층".
"""

import re
import unicodedata

QUANTITY = re.compile(r"(\d+(?:[.:]\d+)*)\s*([^\W\d_])")
FACT = re.compile(r"[A-Za-z][\w.@/-]*|\d[\d.:,-]*\d|\d|(?<=[‘“「『'\"])[^’”」』'\"]+(?=[’”」』'\"])")


def key_recall(key: list[str], answer: str) -> float:
    """Share of the key strings that the answer holds, in [0, 1]. Raises ValueError for an empty key."""
    if not key:
        raise ValueError("no key strings to look for")
    answer = plain(answer)
    return sum(holds(answer, plain(part)) for part in key) / len(key)


def key_exact(key: list[str], answer: str) -> float:
    """1.0 if the answer holds every key string and no other number with a unit that the key has, else 0.0."""
    if key_recall(key, answer) < 1:
        return 0.0
    wanted = {quantity for part in key for quantity in QUANTITY.findall(plain(part))}
    units = {unit for _, unit in wanted}
    foreign = {quantity for quantity in QUANTITY.findall(plain(answer)) if quantity[1] in units} - wanted
    return 0.0 if foreign else 1.0


def key_of(reference: str) -> list[str]:
    """Key strings of a reference answer that comes without: its numbers, dates, Latin tokens and quoted names."""
    return list(dict.fromkeys(FACT.findall(plain(reference)))) or [plain(reference)]


def plain(text: str) -> str:
    """Text for comparison: NFKC, thousands separators removed."""
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", unicodedata.normalize("NFKC", text))


def holds(answer: str, part: str) -> bool:
    """Whether `part` occurs in `answer`, whatever the white space, and not as a piece of a longer number."""
    pattern = r"\s*".join(re.escape(character) for character in part if not character.isspace())
    before = r"(?<![\d])" if part[0].isdigit() else ""
    after = r"(?!\d)" if part[-1].isdigit() else ""
    return re.search(before + pattern + after, answer, re.IGNORECASE) is not None
