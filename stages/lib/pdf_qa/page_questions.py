"""Questions that a page asks and answers itself: FAQ sections, headings in question form, ruled tables.

Deterministic and without a model. Each pair is made of words that stand on the page, and says where.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from stages.lib.pdf_qa.pdf_pages import Page

ASKED = re.compile(r"^\s*(?:Q|문|질문)\s*\d*\s*[.:)）]\s*(?P<question>.+)$", re.IGNORECASE)
ANSWERED = re.compile(r"^\s*(?:A|답|답변)\s*\d*\s*[.:)）]\s*(?P<answer>.+)$", re.IGNORECASE)
HEADING = re.compile(r"^\s*(?:\d+(?:\.\d+)*\.?|제\s*\d+\s*[장절조]|[가-하]\.|[■●◆▶•*-])\s+(?P<title>\S.*)$")
ENDED = re.compile(r"[.!?。]['\"”’)]?\s*$")
LONGEST_ANSWER = 8
"""Lines: what goes on longer than that isn't an answer but a chapter."""


@dataclass
class Pair:
    """A question and an answer, and where on the page the answer stands (characters from, to)."""

    question: str
    answer: str
    start: int
    end: int


def page_questions(page: Page) -> Iterator[Pair]:
    """Yield the pairs of a page, in the order of its text and then of its tables."""
    yield from text_questions(page.text)
    for table in page.tables:
        yield from table_questions(table, page.text)


def text_questions(text: str) -> Iterator[Pair]:
    """Yield a pair for each line that asks, with the lines below it up to the end of a sentence."""
    lines, starts, offset = text.split("\n"), [], 0
    for line in lines:
        starts.append(offset)
        offset += len(line) + 1
    for number, line in enumerate(lines):
        question = asks(line)
        if not question:
            continue
        taken: list[str] = []
        for below in range(number + 1, min(number + 1 + LONGEST_ANSWER, len(lines))):
            said = ANSWERED.match(lines[below])
            if not lines[below].strip() or asks(lines[below]) or (not said and HEADING.match(lines[below])):
                break
            taken.append(said["answer"] if said and not taken else lines[below])
            if ENDED.search(lines[below]):
                break
        if taken:
            answer = " ".join(" ".join(taken).split())
            last = number + len(taken)
            yield Pair(question, answer, starts[number + 1], starts[last] + len(lines[last]))


def asks(line: str) -> str:
    """The question that a line is: after Q. or 문:, or a heading that ends in a question mark. Else empty."""
    if found := ASKED.match(line):
        return found["question"].strip()
    heading = HEADING.match(line)
    title = heading["title"] if heading else line
    return title.strip() if title.rstrip().endswith(("?", "？")) and not ANSWERED.match(line) else ""


def table_questions(table: list[list[str]], text: str) -> Iterator[Pair]:
    """Yield "{row}의 {column}은/는?" -> cell for a table with a header row and a first column of names."""
    header, *rows = table
    columns = header[1:]
    names = [row[0] for row in rows]
    if not columns or not all(header) or len(set(header)) < len(header) or len(set(names)) < len(names):
        return  # without a header, or with a row named twice, the question wouldn't say which cell it means
    for row in rows:
        for column, cell in zip(columns, row[1:], strict=False):
            if row[0] and cell.strip(" -–—") and not column.endswith("?"):
                row_start = span_of(row[0], text, 0)[0]
                yield Pair(f"{row[0]}의 {column}{topic(column)}?", cell, *span_of(cell, text, row_start))


def span_of(words: str, text: str, start: int) -> tuple[int, int]:
    """Where words stand in a text from `start` on, whatever its spacing; the whole text if they don't."""
    pattern = r"\s*".join(re.escape(char) for char in "".join(words.split()))
    found = re.compile(pattern).search(text, start)
    return found.span() if found else (0, len(text))


def topic(word: str) -> str:
    """The Korean topic particle after a word: 은 after a final consonant, 는 after a vowel."""
    last = next((char for char in reversed(word) if char.isalnum()), "")
    if "가" <= last <= "힣":
        return "은" if (ord(last) - ord("가")) % 28 else "는"
    return "은" if last.casefold() in "lmn01368" else "는"
