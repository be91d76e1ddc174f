"""Clean paragraphs of documents as raw text: what continued pre-training learns, without a question or a template.

A PDF's paragraphs are its blocks; those of *.txt, *.md and rows {"text": "…"} are parted by empty lines. A heading goes
with the paragraph below it. Tables, notes, captions, lone words and rows of signs are no prose.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stages.lib.data.characters import fix
from stages.lib.data.comparison import letters
from stages.lib.pdf_qa.clarity import personal_data
from stages.lib.pdf_qa.layout import Block
from stages.lib.pdf_qa.tables import CAPTION, UNREADABLE

NO_PROSE = ("not_prose", "fragment", "few_letters", "heading_alone")
SPOILED = ("mojibake", "unreadable", "special_token")
"""Reasons for which a paragraph is dropped without a look at others."""

SHORTEST = 45
"""Bytes of a paragraph's letters (15 of Hangul, 45 of Latin) from which on one that ends no sentence is no label."""
FEW_LETTERS = 0.5
"""Share of letters among visible characters, below which a paragraph is a formula, a row of numbers or a rule."""
SENTENCE_END = re.compile(r"[.!?。？！…:;다요죠”\"’')\]]\s*$")
LONGEST = 2**16
"""Characters after which a paragraph of a text file ends in any case."""
HEADING = re.compile(r"^(#{1,6})\s+\S")
ITEM = re.compile(r"^\s*(?:[-*+•·]|\d{1,3}[.)])\s")


@dataclass
class Paragraph:
    """A paragraph: its text, the page or line on which it begins and its place in the page's text, its headings.

    `kind` is a Block's. `joint` is what belongs between it and the paragraph before: a space where a sentence goes on.
    """

    kind: str
    place: int
    text: str
    start: int = 0
    end: int = 0
    level: float = 0.0
    headings: list[str] = field(default_factory=list)
    joint: str = "\n\n"
    fixed: list[str] = field(default_factory=list)
    personal_data: list[str] = field(default_factory=list)

    def whole(self) -> str:
        """The text under its headings."""
        return "\n\n".join([*self.headings, self.text])


@dataclass
class Unclean:
    """A paragraph that is dropped, its reason code and what was found."""

    paragraph: Paragraph
    reason: str
    detail: str


def block_paragraphs(blocks: Iterable[Block]) -> Iterator[Paragraph]:
    """Yield a PDF's blocks as paragraphs; an article is its title and its text."""
    for block in blocks:
        text = f"{block.title} {block.text}".strip() if block.kind == "article" else block.text
        yield Paragraph(block.kind, block.page, text, block.start, block.end, block.level)


def text_paragraphs(lines: Iterable[str]) -> Iterator[Paragraph]:
    """Yield the paragraphs of a text, by its lines; a line that begins with # is a heading, as in Markdown."""
    begun: list[str] = []
    first = 0
    for number, line in enumerate(lines, start=1):
        heading = HEADING.match(line)
        if begun and (heading or not line.strip() or sum(map(len, begun)) > LONGEST):
            yield text_paragraph(begun, first)
            begun = []
        if heading:
            yield Paragraph("heading", number, line.strip(), level=-float(len(heading[1])))
        elif line.strip():
            first = first if begun else number
            begun.append(line.rstrip())
    if begun:
        yield text_paragraph(begun, first)


def text_paragraph(lines: list[str], first: int) -> Paragraph:
    """The paragraph that lines of a text make."""
    return Paragraph("item" if ITEM.match(lines[0]) else "text", first, "\n".join(lines))


def clean_paragraphs(
    paragraphs: Iterable[Paragraph], special: Iterable[str], drop_personal_data: bool
) -> Iterator[Paragraph | Unclean]:
    """Yield paragraphs with the headings above them, or what is wrong with them; headings count with their paragraph.

    `special` are the texts of the model's special tokens: written in a document, one would be learned as itself.
    """
    headings: list[Paragraph] = []
    before: Paragraph | None = None
    for paragraph in paragraphs:
        if paragraph.kind == "heading":
            alone = [above for above in headings if above.level <= paragraph.level]
            headings = [above for above in headings if above.level > paragraph.level] + [paragraph]
            yield from map(heading_alone, alone)
            continue
        fixed = fix(paragraph.text)
        reason, detail = unclean(paragraph, fixed.text, fixed.unreadable, special)
        kinds = personal_data(fixed.text)
        if not reason and drop_personal_data and kinds:
            reason, detail = "pii", ", ".join(kinds)
        if reason:
            yield Unclean(paragraph, reason, detail)
            continue
        paragraph.text, paragraph.fixed, paragraph.personal_data = fixed.text, fixed.done, kinds
        paragraph.headings = [fix(heading.text).text for heading in headings]
        if not headings and before:
            goes_on = paragraph.kind == before.kind == "text" and not SENTENCE_END.search(before.text)
            listed = paragraph.kind == before.kind == "item"
            paragraph.joint = " " if goes_on else "\n" if listed else "\n\n"
        headings, before = [], paragraph
        yield paragraph
    yield from map(heading_alone, headings)


def heading_alone(heading: Paragraph) -> Unclean:
    """The reject of a heading that no prose stands under."""
    return Unclean(heading, "heading_alone", "no clean paragraph stands under it")


def unclean(paragraph: Paragraph, text: str, unreadable: str, special: Iterable[str]) -> tuple[str, str]:
    """The reason code of what keeps a paragraph from being learned and what was found, or two empty strings.

    `text` is the paragraph's, fixed, and `unreadable` why it can't be.
    """
    if unreadable:
        return "mojibake", unreadable
    if paragraph.kind in ("table", "note") or CAPTION.match(text):
        return "not_prose", f"a {paragraph.kind if paragraph.kind in ('table', 'note') else 'caption'}"
    if UNREADABLE.search(text) or "\ufffd" in text:
        return "unreadable", "glyphs without a character"
    if found := next((token for token in special if token in text), ""):
        return "special_token", f"it spells {found!r}, a special token of the base model"
    visible = "".join(text.split())
    count = sum(char.isalpha() for char in visible)
    if count < FEW_LETTERS * len(visible) or not visible:
        return "few_letters", f"{count} letters in {len(visible)} characters"
    said = len(letters(text).encode())
    if paragraph.kind == "text" and said < SHORTEST and not SENTENCE_END.search(text):
        return "fragment", f"{len(text)} characters, and no sentence ends"
    return "", ""
