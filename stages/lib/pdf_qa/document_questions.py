"""Questions that a document asks and answers itself: FAQs, headings that ask, tables, articles, definitions.

Deterministic and without a model. Each answer is made of words that are in the document, and says where. Prose makes
no questions.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stages.lib.pdf_qa.clarity import SCRIPTS
from stages.lib.pdf_qa.layout import (
    ANSWER_MARK,
    BULLET,
    HANGUL,
    NUMBERED,
    PART,
    QUESTION_MARK,
    Block,
    blocks_of,
    without_number,
)
from stages.lib.pdf_qa.page_gate import UNUSABLE
from stages.lib.pdf_qa.pdf_pages import Page
from stages.lib.pdf_qa.tables import CAPTION, NOTHING, UNREADABLE, Table

ASKS = re.compile(r"[?？]!?['\"”’)）]?\s*$")
ASKS_AND_SAYS = re.compile(r"[?？]\s+\S.*[.!]$")
"""A heading that asks and says something more: Why does it? I thought it doesn't!"""
SENTENCE = re.compile(r"[.!?]\s+[A-Z가-힣]")
"""A sentence's end within a text: a list's item that asks at its end is advice, no question."""
DOTTED = re.compile(r"(?:\.\s){4,}")
"""The leaders of a table of contents or an index."""
QUESTIONS = {"질문", "문의", "문의사항", "문의내용", "질의", "물음", "question", "questions", "q"}
ANSWERS = {"답변", "답", "응답", "회신", "답변내용", "answer", "answers", "response", "a"}
SENTENCE_END = re.compile(r"[.!?。:;다>)\]”\"]\s*$|\|")
YEAR = re.compile(r"^(?:19|20)\d\d(?:년|/\d\d)?$")
NUMBER = re.compile(r"^[\s\d.,%$€₩()\-–/:]+$")
REPEALED = re.compile(r"^\s*(?:<?삭\s*제>?|\(삭제\))")
DEFINES = re.compile(r"용어|정의|Definition|Glossary", re.IGNORECASE)
DEFINED = re.compile(r"^(?P<term>[^:：.?]{2,40}?)\s*[:：]\s*(?P<meaning>\S.{10,})$", re.DOTALL)
DEFINED_IN_QUOTES = re.compile(
    r"^[“\"‘'「](?P<term>[^”\"’'」]{2,40})[”\"’'」](?:이)?(?:란|라 함은|은|는)\s*(?P<meaning>.{10,})$", re.DOTALL
)
BY_SCRIPT = {"Hangul": "ko", "Greek": "el", "Arabic": "ar", "Thai": "th", "Devanagari": "hi"}
COMMON_WORDS = {
    "en": {"the", "of", "and", "to", "in", "for"},
    "de": {"der", "die", "und", "das", "den", "nicht", "von", "mit"},
    "fr": {"le", "les", "et", "des", "du", "une", "est", "dans"},
    "es": {"el", "los", "las", "y", "del", "que", "por", "una"},
    "it": {"il", "di", "che", "gli", "della", "per", "non", "un"},
    "pt": {"o", "os", "e", "do", "da", "que", "não", "uma"},
    "nl": {"de", "het", "een", "van", "en", "niet", "met", "voor"},
}
LEAST_COMMON = 0.03
"""Share of a text's words that are common ones of its language."""
LONGEST_COLUMN = 80
LONGEST_NAME = 120
"""Characters of a column's name and of a row's, above which it is a text."""
LONGEST_ANSWER = 6000
"""Characters: what goes on longer than that isn't an answer but a chapter."""


@dataclass
class Pair:
    """A question and an answer, the page on which the answer begins and where in its text (characters from, to).

    `source` is the text that the answer was taken from, words at line ends whole.
    """

    question: str
    answer: str
    page: int
    start: int
    end: int
    source: str


def document_questions(pages: list[Page], name: str, languages: Sequence[str] = ("ko", "en")) -> Iterator[Pair]:
    """Yield the pairs of a document in its order. `name` stands for its title where none is found.

    `languages` (codes of ISO 639-1) are those in which tables become questions.
    """
    usable = [page for page in pages if not UNUSABLE & set(page.problems)]
    said = {page.page: "".join(page.text.split()) for page in usable}
    blocks = blocks_of(usable)
    written_in = language_of(" ".join(block.text for block in blocks))
    language = written_in if written_in in languages else ""
    title = title_of(blocks, name)
    for number, block in enumerate(blocks):
        if block.kind == "table" and block.table:
            yield from table_questions(block, block.table, said[block.page], language)
        elif block.kind == "article":
            yield from article_questions(blocks, number, title)
        elif (question := asked_by(block)) and not asked_by(next_of(blocks, number)):
            yield from answered(blocks, number, question)


def asked_by(block: Block | None) -> str:
    """The question that a block is: after Q. or 문:, numbered, or a heading that asks. Else empty."""
    if block is None or block.kind not in ("heading", "text", "item"):
        return ""
    text = block.text
    if (found := QUESTION_MARK.match(text)) and not DOTTED.search(text):
        return text[found.end() :].strip()
    asks = ASKS.search(text) or (block.kind == "heading" and ASKS_AND_SAYS.search(text))
    if not asks or ANSWER_MARK.match(text) or CAPTION.match(text) or DOTTED.search(text):
        return ""
    if block.kind == "heading" or NUMBERED.match(text) or (BULLET.match(text) and not SENTENCE.search(text)):
        return without_number(text)
    return ""


def next_of(blocks: list[Block], number: int) -> Block | None:
    """The block that follows, notes left out."""
    return next((block for block in blocks[number + 1 :] if block.kind != "note"), None)


def answered(blocks: list[Block], number: int, question: str) -> Iterator[Pair]:
    """Yield the pair of a question and all that follows it up to the next question, heading or article."""
    begun = ""
    if QUESTION_MARK.match(blocks[number].text) and not ASKS.search(question) and "?" in question:
        question, _, begun = question.partition("?")  # the answer is in the same lines
        question, begun = f"{question}?", ANSWER_MARK.sub("", begun.strip())
    parts = following(blocks, number)
    if QUESTION_MARK.match(blocks[number].text):  # what stands below an FAQ's answer is the page's
        tables = (place for place, part in enumerate(parts) if part.kind == "table" and place)
        parts = parts[: next(tables, len(parts))]
    texts = run_on([*[begun] * bool(begun), *(part.text for part in parts)])
    if not texts:
        return
    texts[0] = ANSWER_MARK.sub("", texts[0])
    first = blocks[number] if begun else parts[0]
    yield from pair(question, "\n".join(texts), first, parts, "\n".join([blocks[number].text, *texts]))


def following(blocks: list[Block], number: int) -> list[Block]:
    """The blocks below one up to the next question, heading or article; footnotes and captions left out."""
    parts: list[Block] = []
    for block in blocks[number + 1 :]:
        if block.kind in ("heading", "article") or asked_by(block):
            break
        if block.kind != "note" and not (block.kind != "table" and CAPTION.match(block.text) and len(block.text) < 150):
            parts.append(block)
    return parts


def run_on(texts: list[str]) -> list[str]:
    """Texts of which one that ends within a sentence, at the end of a page or column, is one with the next."""
    whole: list[str] = []
    for text in texts:
        if whole and not SENTENCE_END.search(whole[-1]) and not NUMBERED.match(text) and not BULLET.match(text):
            whole[-1] += f" {text}"
        else:
            whole.append(text)
    return whole


def pair(question: str, answer: str, first: Block, parts: list[Block], source: str) -> Iterator[Pair]:
    """Yield the pair, unless the answer is a chapter; its place is the part that stands on the first page."""
    question, answer = " ".join(question.split()), answer.strip()
    if answer and len(answer) <= LONGEST_ANSWER:
        end = max((part.end for part in [first, *parts] if part.page == first.page), default=first.end)
        yield Pair(question, answer, first.page, first.start, end, source)


def article_questions(blocks: list[Block], number: int, title: str) -> Iterator[Pair]:
    """Yield an article of rules under its title, and the terms that it defines."""
    article = blocks[number]
    parts = following(blocks, number)
    if not article.text and parts and parts[0].kind == "table":
        return  # its cells are asked for one by one
    answer = "\n".join(run_on([text for text in (article.text, *(part.text for part in parts)) if text]))
    at_the_end = number + len(parts) + 1 >= len(blocks)
    if (REPEALED.match(answer) and len(answer) < 60) or (at_the_end and not SENTENCE_END.search(answer)):
        return
    part = next((f"{heading} " for heading in article.path[-1:] if re.match(r"부\s*칙", heading)), "")
    source = f"{article.title} {answer}"
    yield from pair(f"「{title}」 {part}{article.title}의 내용은 무엇인가요?", answer, article, parts, source)
    if DEFINES.search(article.title):
        for block in parts:
            text = without_number(block.text)
            if found := DEFINED.match(text) or DEFINED_IN_QUOTES.match(text):
                asked = f"「{title}」에서 말하는 {found['term'].strip()}의 뜻은 무엇인가요?"
                yield from pair(asked, found["meaning"], block, [], block.text)


def table_questions(block: Block, table: Table, said: str, language: str) -> Iterator[Pair]:
    """Yield the questions of a table: its own where it has columns of them, else one for each cell.

    A cell's question says which row and column it is in, under which caption or heading, in the document's language;
    other than in Korean a caption is needed: "the Fee of Adult" under a chapter's name asks nothing. `language` is
    empty where none of a cell are wanted.
    `said` is the page's text without spaces: a header that isn't in it was read upside down.
    """
    rows = [row for row in table.rows if any(cell.strip() for cell in row)]
    if len(rows) < 2 or any(UNREADABLE.search(cell) for cell in (*rows[0], *(row[0] for row in rows))):
        return
    header = [" ".join(cell.split()) for cell in rows[0]]
    kinds = ["".join(cell.casefold().split()) for cell in header]
    asks = next((n for n, kind in enumerate(kinds) if kind in QUESTIONS), None)
    answers = next((n for n, kind in enumerate(kinds) if kind in ANSWERS), None)
    source = block.text + "\n" + "\n".join(cell for row in rows for cell in row)
    if asks is not None and answers is not None:
        for row in rows[1:]:
            if len(row) > max(asks, answers) and row[asks].strip() and row[answers].strip():
                yield Pair(QUESTION_MARK.sub("", row[asks]), ANSWER_MARK.sub("", row[answers]), block.page, block.start,
                           block.end, source)  # fmt: skip
        return
    context = table.title or (block.path[-1] if block.path else "")
    header_lines = [line for cell in table.rows[0] for line in cell.split() if cell]
    upright = table.numbers == [] or all(word in said for word in header_lines)
    if not (language == "ko" or (language and table.title)) or not upright:
        return
    named = {"ko": korean_question, "en": english_question}.get(language, plain_question)
    if not table.headed:
        for name, meaning in (row[:2] for row in table.rows):
            if context and name.strip() and not NOTHING.match(meaning):
                yield Pair(named(context, name, ""), meaning, block.page, block.start, block.end, source)
        return
    values = list(table.grid.values())
    if not names_its_cells(table.grid.header, table.grid.names, values):
        return
    for name, column, value in values:
        if not (NOTHING.match(value) or UNREADABLE.search(value)):
            yield Pair(named(context, without_number(name), column), value, block.page, block.start, block.end, source)


def names_its_cells(header: list[str], names: int, values: list[tuple[str, str, str]]) -> bool:
    """Whether header and names tell each value from the others: none empty or twice, and the header no data."""
    columns = header[names:]
    if not columns or not all(columns) or len({header[0], *columns}) < 1 + len(columns):
        return False
    asked = [(name, column) for name, column, _ in values]
    if len(set(asked)) < len(asked):
        return False
    numbers = sum(bool(NUMBER.match(column)) and not YEAR.match(column) for column in columns)
    if numbers or any(len(name) > LONGEST_COLUMN or name.endswith((".", ",", ";")) for name in header):
        return False
    if any(len(name) > LONGEST_NAME for name, _ in asked):
        return False
    return not all(NUMBER.match(name) for name, _ in asked)


def korean_question(context: str, row: str, column: str) -> str:
    """여권의 수수료는? under what the table is about; 여권은? without a column."""
    if column.endswith("?"):
        asked = f"{row}, {column}"
    else:
        asked = f"{row}의 {column}{topic(column)}?" if column else f"{row}{topic(row)}?"
    return f"{context}: {asked}" if context else asked


def english_question(context: str, row: str, column: str) -> str:
    """What is the fee of Passport? under what the table is about."""
    about = f"In “{context}”, what" if context else "What"
    if not column:
        return f"{about} is {row}?"
    if column.endswith("?"):
        return f"In “{context}”, {row}: {column}"
    return f"{about} is the {column} figure for {row}?" if YEAR.match(column) else f"{about} is the {column} of {row}?"


def plain_question(context: str, row: str, column: str) -> str:
    """Erwachsene – Gebühr? under what the table is about: in any language."""
    return f"{context}: {row} – {column.rstrip('?')}?" if column else f"{context}: {row}?"


def is_korean(blocks: list[Block]) -> bool:
    """Whether most words of the document are Korean."""
    return language_of(" ".join(block.text for block in blocks)) == "ko"


def language_of(text: str) -> str:
    """The code (ISO 639-1) of the language that most of a text is in; empty if it is none that is known.

    By its script where a script tells, else by words that no other language has so many of.
    """
    counts = {name: len(pattern.findall(text)) for name, pattern in SCRIPTS.items()}
    if 3 * len(HANGUL.findall(text)) > len(re.findall("[A-Za-z]", text)):
        return "ko"
    script = max(counts, key=counts.__getitem__)
    if script == "Cyrillic":
        return "uk" if re.search("[іїєґІЇЄҐ]", text) else "ru"
    if script in ("Han", "Kana"):
        return "ja" if 10 * counts["Kana"] > counts["Han"] else "zh"
    if script != "Latin":
        return BY_SCRIPT[script]
    words = re.findall(r"[^\W\d_]+", text.casefold())
    shares = {code: sum(word in common for word in words) for code, common in COMMON_WORDS.items()}
    code = max(shares, key=shares.__getitem__)
    return code if words and shares[code] >= LEAST_COMMON * len(words) else ""


def title_of(blocks: list[Block], name: str) -> str:
    """The document's title: the heading in the largest letters of its first two pages, or its name."""
    first = blocks[0].page if blocks else 0
    headings = [block for block in blocks if block.kind == "heading" and block.page <= first + 1
                and not PART.match(block.text)]  # fmt: skip
    largest = max((block.level for block in headings), default=0.0)
    usual = [block.level for block in blocks if block.kind == "heading"]
    title = next((block.text.strip("【】[]<>「」 ") for block in headings if block.level == largest), "")
    return title if title and len(title) <= 60 and largest >= max(usual) - 0.3 else name


def topic(word: str) -> str:
    """The Korean topic particle after a word: 은 after a final consonant, 는 after a vowel."""
    last = next((char for char in reversed(word) if char.isalnum()), "")
    if "가" <= last <= "힣":
        return "은" if (ord(last) - ord("가")) % 28 else "는"
    return "은" if last.casefold() in "lmn01368" else "는"
