"""Whether an answer says only what its source says."""

import re

from stages.lib.data.comparison import trigrams

LEAST_RECALL = 0.6
"""Share of the answer's character trigrams that must be in the source."""

UNGROUNDED = ("ungrounded_number", "ungrounded_latin", "ungrounded_text")


def ungrounded(answer: str, source: str) -> tuple[str, str]:
    """The reason code of what the source doesn't say and what it was, or two empty strings.

    Every number, date and Latin word of the answer must be in the source, and so must most of its wording.
    """
    known = set(numbers(source))
    for number in numbers(answer):
        if number not in known:
            return "ungrounded_number", f"{number} isn't in the source"
    words = {word.casefold() for word in re.findall(r"[A-Za-z]+", source)}
    for word in re.findall(r"[A-Za-z]+", answer):
        if word.casefold() not in words:
            return "ungrounded_latin", f"{word} isn't in the source"
    ours, theirs = trigrams(squeezed(answer)), trigrams(squeezed(source))
    recall = len(ours & theirs) / len(ours) if ours else 0.0
    if squeezed(answer) not in squeezed(source) and recall < LEAST_RECALL:
        return "ungrounded_text", f"{recall:.2f} of its trigrams are in the source, needed {LEAST_RECALL}"
    return "", ""


def numbers(text: str) -> list[str]:
    """Numbers, dates and times as written, without thousands separators."""
    return [found.replace(",", "") for found in re.findall(r"\d+(?:[.,:/-]\d+)*", text)]


def squeezed(text: str) -> str:
    """Text without spaces: line breaks of a PDF fall inside words."""
    return "".join(text.split()).casefold()
