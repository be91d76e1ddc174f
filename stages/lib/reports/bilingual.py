"""One thing said in Korean and in English, on a page where a reader chooses one by a link, or reads both."""

from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Words:
    """One thing said, in both languages."""

    ko: str
    en: str

    def inline(self, between: str = " · ") -> str:
        """As HTML within a line; `between` shows where both are read."""
        return f'<span lang="ko">{escape(self.ko)}</span><i>{between}</i><span lang="en">{escape(self.en)}</span>'

    def paragraphs(self, kind: str = "") -> str:
        """As a paragraph each, of a CSS class."""
        named = f' class="{kind}"' if kind else ""
        return "".join(f'<p{named} lang="{name}">{escape(text)}</p>' for name, text in vars(self).items())
