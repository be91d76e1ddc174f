"""Whether the text of a PDF page is what the page shows.

Measured on real Korean PDFs: on clean ones no syllable is outside KS X 1001, on one with a broken character map 23 %.
"""

import re

SHORTEST = 20
"""Characters below which a page counts as having no text."""
MOST_PRIVATE = 0.02
"""Share of private-use characters and U+FFFD: glyphs without a character."""
MOST_RARE = 0.02
"""Share of syllables outside KS X 1001, which holds the 2,350 that Korean is written with."""
LONG_RUN = 13
"""Syllables without a space; Korean words are shorter."""
MOST_UNSPACED = 0.3

SYLLABLE = re.compile("[가-힣]")
PRIVATE = re.compile("[\ue000-\uf8ff\ufffd\U000f0000-\U0010fffd]")
RUN = re.compile(f"[가-힣]{{{LONG_RUN},}}")

UNUSABLE = {"no_text", "private_use", "garbled"}
"""Problems that another extractor may not have; questions are never made from such a page."""


def page_problems(text: str) -> list[str]:
    """What is wrong with a page's text: no_text, private_use, garbled, spacing_lost. Empty if nothing is."""
    visible = "".join(text.split())
    if len(visible) < SHORTEST:
        return ["no_text"]
    problems = []
    if len(PRIVATE.findall(visible)) > MOST_PRIVATE * len(visible):
        problems.append("private_use")
    syllables = SYLLABLE.findall(visible)
    if len(syllables) >= 30:
        rare = sum(len(char.encode("euc_kr", "ignore")) != 2 for char in syllables)
        if rare > MOST_RARE * len(syllables):
            problems.append("garbled")
        if sum(map(len, RUN.findall(text))) > MOST_UNSPACED * len(syllables):
            problems.append("spacing_lost")
    return problems
