"""Text from outside, such as answers, file names and what an endpoint said, where something would obey it: a terminal,
Markdown.
"""

import re
from unicodedata import category

HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Categories that a terminal obeys or doesn't show: controls, formats (bidirectional and zero-width ones), halves of
surrogate pairs, private ones, line and paragraph separators."""

JOINERS = "\u200c\u200d"
"""They belong to the spelling of Persian and to emoji; they turn nothing round."""


def shown(text: str) -> str:
    """A text in which each such character is seen as Python spells it, \\x1b for example. Lines and tabs stay."""
    return "".join(visible(character) for character in text)


def visible(character: str) -> str:
    if character in "\n\t" or character in JOINERS or category(character) not in HIDDEN:
        return character
    return character.encode("unicode_escape").decode("ascii")


def on_one_line(text: str) -> str:
    """A text as `shown`, with its lines and tabs spelt too: nothing in it begins a line of its own."""
    return shown(text).replace("\n", "\\n").replace("\t", "\\t")


MARKUP = re.compile(r"[\\`*\[\]<>|~&$]|(?<!\w)_|_(?!\w)|(?<=:)/(?=/)|^[#+=-]|(?<=^\d)[.)]|(?<=^\d\d)[.)]")
"""What Markdown takes for markup: raw HTML, links, code, emphasis, formulas, and what begins a heading or a list."""

HTML_AND_LINKS = re.compile(r"[\[\]<>]|(?<=:)/(?=/)")


def in_markdown(text: str) -> str:
    """A text as Markdown shows it, on one line: no HTML, no link, no image in it is one."""
    return MARKUP.sub(lambda found: f"\\{found[0]}", " ".join(shown(text).split()))


def sentence_in_markdown(sentence: str) -> str:
    """A sentence of ours in Markdown that names what came from outside: HTML and links in it are none, `code` is."""
    return HTML_AND_LINKS.sub(lambda found: f"\\{found[0]}", on_one_line(sentence))
