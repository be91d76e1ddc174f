"""Blocks of a document from the lines of its pages: headings with their path, paragraphs, list items, articles, tables.

What a block is follows from the size and weight of its letters against the document's own, from gaps, and from what it
begins with (1.2, 제3조(목적), Q., •).
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from stages.lib.pdf_qa.pdf_pages import Page
from stages.lib.pdf_qa.tables import Table, tables_of
from stages.lib.pdf_qa.text_lines import TextLine

HEADING_SIZE = 1.12
"""Times the document's usual size, from which on letters are a heading's."""
NOTE_SIZE = 0.86
"""Times the usual size, below which they are a footnote's or a figure's."""
LONGEST_HEADING = 200
GAP = 0.45
"""Of the letters' size: lines that are further apart than usual by more are of two paragraphs."""
WITHIN_WORDS = 0.2
"""Lines that the document's words say to end within a word, for one that they say ends between two, from which on the
others may."""
ENDING = re.compile(
    r"하[고여였는며거지기게]|한다|함|되[어고는며지]|된다|이[고며다]|[을를은는의에]$|에서|에게|으로|까지|부터|시[킬키]"
)
"""What a word that was broken goes on with: an ending or a particle."""
SYLLABLES_ALONE = set("및등수것그이각한또더안못때중후전본위당총약단원월일년자할될된제의")

QUESTION_MARK = re.compile(r"^\s*[\[【<]?\s*(?:Q|문|질문|물음|질의)\s*[-.]?\s*\d{0,3}\s*[\].:)）】>]\s*", re.IGNORECASE)
ANSWER_MARK = re.compile(r"^\s*[\[【<]?\s*(?:A|답|답변|응답)\s*[-.]?\s*\d{0,3}\s*[\].:)）】>]\s*", re.IGNORECASE)
ARTICLE = re.compile(
    r"^\s*제\s*(\d+)\s*(?:조\s*((?:의\s*)?\d+)?|(?=[(（]))\s*[(（【\[]((?:[^()（）】\]]|\([^()]{0,20}\)){1,60})[)）】\]]"
    r"(?=\s|$|[①-⑳<「])(?!\s*(?:및\s|또는\s|내지\s|제\s*\d+\s*[조항호]))\s*"
)
"""제9조의2(노동이사의 권한), misprinted as 제37조4(…) and 제8 (전보), too; but not 제414조(감사의 책임) 및 제415조."""
ARTICLE_ALONE = re.compile(r"^\s*제\s*(\d+)\s*조(의\s*\d+)?\s+([^.。<]{2,60}?)\s*(?:<[^>]*>)?\s*$")
PART = re.compile(
    r"^\s*(?:제\s*\d+\s*[편장절관]|부\s*칙|\[?별표\s*\d*|Chapter\s+\d+|Part\s+[IVX\d]+)(?=\s|$|[.(<\]])", re.IGNORECASE
)
NUMBERED = re.compile(r"^\s*(?:\d+(?:\.\d+)+\.?|\d{1,3}[.)]|[가-하][.)]|[①-⑳]|\([\d가-하]{1,2}\)|[IVX]{1,5}\.)\s+")
NOTICE = re.compile(
    r"^(?:참고|주의|중요|경고|도움말|팁|알림|note|tip|warning|caution|important)\s*[!:：]?$", re.IGNORECASE
)
"""The word over a box of advice: the text below isn't a section."""
BULLET = re.compile(r"^\s*(?:[•·■□●○◆◇▶▷▪※*–—-]|[oO](?=\s{2}))\s+")
LEADERS = re.compile(r"(?:\.\s?){4,}\s*\d*\s*$|(?:…\s?|·\s?){2,}\s*\d+\s*$")
HANGUL = re.compile("[가-힣]")


@dataclass
class Block:
    """A piece of a page: its kind (heading, text, item, article, table), its text, and where it is in the page's.

    `level` ranks headings, the largest letters first. An article's `title` is apart from its text.
    """

    kind: str
    page: int
    text: str
    start: int
    end: int
    level: float = 0.0
    title: str = ""
    table: Table | None = None
    path: tuple[str, ...] = field(default_factory=tuple)


def blocks_of(pages: list[Page]) -> list[Block]:
    """The blocks of the usable pages in reading order, each with the headings that it stands under."""
    style = Style(usual_size(pages), usual_step(pages), Wraps(pages))
    blocks = [block for page in pages for block in page_blocks(page, style)]
    path: list[tuple[float, str]] = []
    for block in blocks:
        if block.kind in ("heading", "article"):
            path = [(level, title) for level, title in path if level > block.level + 0.2]
        block.path = tuple(title for _, title in path)
        if block.kind in ("heading", "article"):
            path.append((block.level, block.title or without_number(block.text)))
    return blocks


def usual_size(pages: list[Page]) -> float:
    """The height of most of the document's letters, in half points; 0 if no place is known."""
    sizes: Counter[float] = Counter()
    for page in pages:
        for line in page.lines:
            sizes[round(line.size * 2) / 2] += len(line.text)
    return max(sizes, key=sizes.__getitem__, default=0.0)


def usual_step(pages: list[Page]) -> float:
    """The distance of most lines from the line above, in their size; 1.2 if no place is known."""
    steps: Counter[float] = Counter()
    for page in pages:
        for above, line in pairwise(page.lines):
            if line.size and 0.8 < (step := (above.y0 - line.y0) / line.size) < 2.5:
                steps[round(step, 1)] += 1
    return max(steps, key=steps.__getitem__, default=1.2)


class Wraps:
    """Whether a Korean line ends between words or within one: files differ, and some pages alone tell.

    pdfium leaves a space at a line's end only where a word ends; many files have none there either way. Then the words
    that the document's other lines hold decide: whether both halves stand there, or the whole.
    """

    def __init__(self, pages: list[Page]) -> None:
        self.words: set[str] = set()
        for page in pages:
            for line in page.lines:
                self.words.update(bare(word) for word in line.text.split()[1:-1])
        found = [self.told(above.text, line.text) for page in pages for above, line in pairwise(page.lines)]
        self.within = found.count(True) > WITHIN_WORDS * found.count(False)

    def told(self, above: str, line: str) -> bool | None:
        """True if the document's words say that the first word of a line goes on the last of the one above; None if
        they don't say."""
        if not (HANGUL.match(above[-1:]) and HANGUL.match(line[:1])):
            return None
        first, second = above.split()[-1], line.split()[0]
        if bare(first + second) in self.words:
            return True
        return False if bare(first) in self.words and bare(second) in self.words else None

    def space(self, above: str, line: str) -> str:
        """What belongs between a line and the next: a space, or nothing."""
        if not (HANGUL.match(above[-1:]) and HANGUL.match(line[:1])):
            return " "
        if (told := self.told(above, line)) is None:
            first, second = bare(above.split()[-1]), bare(line.split()[0])
            fragment = ENDING.match(second) or (len(first) == 1 and first not in SYLLABLES_ALONE)
            told = bool(self.within and fragment)
        return "" if told else " "

    def join(self, lines: list[str]) -> str:
        """Lines of which only the text is known as one."""
        text = ""
        for line in lines:
            line = " ".join(line.split())
            text += (self.space(text, line) if text and line else "") + line
        return text


def bare(word: str) -> str:
    """A word without the signs around it."""
    return word.strip(".,;:!?()[]{}<>“”\"'‘’「」『』·")


@dataclass
class Style:
    """How the document's text is set: letters' usual size, lines' usual distance in sizes, and how lines end."""

    size: float
    step: float
    wraps: Wraps


def page_blocks(page: Page, style: Style) -> Iterator[Block]:
    """Yield the blocks of one page."""
    starts, offset = [], 0
    for line in page.lines:
        starts.append(offset)
        offset += len(line.text.rstrip()) + 1
    tables, inside = tables_of(page, style.wraps.join)
    group: list[int] = []
    for number, line in enumerate(page.lines):
        if number in inside or LEADERS.search(line.text) or not line.text.strip():
            if group:
                yield block(page, group, starts, style)
            group = []
            if number in tables:
                table = tables[number]
                last = max(table.numbers, default=number)
                end = starts[last] + len(page.lines[last].text.rstrip())
                yield Block("table", page.page, table.as_text(), starts[number], end, table=table)
            continue
        if group and (asked(page, group) or not goes_on(page.lines[group[-1]], line, style)):
            yield block(page, group, starts, style)
            group = []
        group.append(number)
    if group:
        yield block(page, group, starts, style)
    for number, table in tables.items():
        if number < 0:  # none of its text is a line of the page
            yield Block("table", page.page, table.as_text(), 0, len(page.text), table=table)


def asked(page: Page, group: list[int]) -> bool:
    """Whether lines that begin with a marker or a number have come to a question mark."""
    first, last = page.lines[group[0]].text, page.lines[group[-1]].text
    marked = QUESTION_MARK.match(first) or NUMBERED.match(first) or BULLET.match(first)
    return bool(marked) and last.rstrip().endswith(("?", "？"))


def goes_on(above: TextLine, line: TextLine, style: Style) -> bool:
    """Whether a line is of the same block as the one before it."""
    if any(mark.match(line.text) for mark in (QUESTION_MARK, ANSWER_MARK, ARTICLE, ARTICLE_ALONE, PART, BULLET)):
        return False
    within = any(above.text.count(opening) > above.text.count(closing) for opening, closing in ("()", "<>", "「」"))
    if NUMBERED.match(line.text) and not within:
        return False
    if NOTICE.match(line.text.strip()) or NOTICE.match(above.text.strip()):
        return False
    if ARTICLE_ALONE.match(above.text) or PART.match(above.text):
        return above.bold and line.bold and above.size > style.size
    if not line.size or not above.size:
        return True
    if abs(line.size - above.size) > 0.1 * max(line.size, above.size) or line.bold != above.bold:
        return False
    step = (above.y0 - line.y0) / line.size
    return 0 < step < max(style.step, 1.0) + GAP and line.x0 < above.x1 and line.x1 > above.x0


def block(page: Page, group: list[int], starts: list[int], style: Style) -> Block:
    """The block that lines of a page make."""
    lines = [page.lines[number] for number in group]
    text = joined(lines, style.wraps)
    start, end = starts[group[0]], starts[group[-1]] + len(lines[-1].text.rstrip())
    if found := ARTICLE.match(text) or (ARTICLE_ALONE.match(text) if len(group) == 1 else None):
        branch = re.sub(r"\D", "", found[2] or "")
        name = f"제{found[1]}조" + f"의{branch}" * bool(branch)
        rest = text[found.end() :].strip()
        return Block("article", page.page, rest, start, end, title=f"{name}({found[3].strip()})")
    if is_heading(lines, text, style.size):
        level = lines[0].size + 0.3 * lines[0].bold
        return Block("heading", page.page, text, start, end, level if lines[0].size else 1.0)
    if lines[0].size and lines[0].size < NOTE_SIZE * style.size:
        return Block("note", page.page, text, start, end)
    return Block("item" if BULLET.match(text) or NUMBERED.match(text) else "text", page.page, text, start, end)


def is_heading(lines: list[TextLine], text: str, usual: float) -> bool:
    """Whether the letters of lines, or what they begin with, are a heading's."""
    if len(text) > LONGEST_HEADING or ANSWER_MARK.match(text) or NOTICE.match(text):
        return False
    if PART.match(text) and len(text) < 60:
        return True
    size = lines[0].size
    if not size or not any(char.isalpha() for char in text):
        return False
    if size >= HEADING_SIZE * usual:
        return True
    return lines[0].bold and size > 0.95 * usual and len(lines) <= 3 and not text.endswith((".", ",", ";", ":", "다."))


def joined(lines: list[TextLine], wraps: Wraps) -> str:
    """The text of lines as one; a word that a line's end breaks is whole again."""
    text = ""
    for above, line in zip([None, *lines], lines, strict=False):
        if above is None:
            text = line.text
        elif above.broken:
            text = text.rstrip() + line.text
        else:
            text = text.rstrip() + (" " if above.text.endswith(" ") else wraps.space(above.text, line.text)) + line.text
    return " ".join(text.split())


def without_number(title: str) -> str:
    """A heading without its number or bullet."""
    return BULLET.sub("", NUMBERED.sub("", title)).strip()
