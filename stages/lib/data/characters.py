"""Text fixed character by character: mojibake undone, composed, without characters that nobody sees."""

import re
import unicodedata
from dataclasses import dataclass, field

REPAIRED_FROM = ("latin-1", "cp1252")
"""UTF-8 read in these can be undone without loss."""
NAMED_ONLY = ("cp1253", "cp1251", "cp949", "cp437")
"""UTF-8 read in these loses the bytes that they don't define."""

HANGUL = re.compile("[가-힣]")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
INVISIBLE = re.compile(
    "[\u200b\u200c\u2060\ufeff\u202a-\u202e\u2066-\u2069]"
    "|(?<![\U0001f000-\U0001faff\u2600-\u27bf\ufe0f])\u200d"  # within an emoji it joins; elsewhere it's litter
)


@dataclass
class Fixed:
    """A text after fixing, and what was done: `mojibake`, `control_characters`, `zero_width`, `nfd`.

    `unreadable` names why the text can't be fixed; empty if it can.
    """

    text: str
    done: list[str] = field(default_factory=list)
    unreadable: str = ""


def fix(text: str) -> Fixed:
    """Undo mojibake, then remove control and zero-width characters (newlines and tabs stay), then compose (NFC).

    The order matters: UTF-8 read as latin-1 holds control characters that are half a letter.
    """
    if text.isascii() and not CONTROL.search(text):
        return Fixed(text.strip())
    done = []
    repaired = undo_mojibake(text)
    if repaired != text:
        text = repaired
        done.append("mojibake")
    elif unreadable := name_mojibake(text):
        return Fixed(text, done, unreadable)
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    visible = CONTROL.sub("", lines)
    if visible != lines:
        done.append("control_characters")
    joined = INVISIBLE.sub("", visible)
    if joined != visible:
        done.append("zero_width")
    composed = unicodedata.normalize("NFC", joined)
    if composed != joined:
        done.append("nfd")
    return Fixed(composed.strip(), done)


def undo_mojibake(text: str) -> str:
    """The text whose UTF-8 bytes were read as latin-1 or cp1252, if undoing it is strict and lossless; else `text`.

    Only a result with Hangul counts: a few accented letters of other languages decode by chance.
    """
    if text.isascii() or HANGUL.search(text):
        return text
    for codec in REPAIRED_FROM:
        try:
            repaired = as_bytes(text, codec).decode("utf-8")
        except UnicodeError:
            continue
        if HANGUL.search(repaired):
            return repaired
    return text


def as_bytes(text: str, codec: str) -> bytes:
    """The bytes that `codec` read as `text`; the five that cp1252 leaves undefined are read as C1 by most programs.

    Raises UnicodeEncodeError if there are none.
    """
    if codec != "cp1252":
        return text.encode(codec)
    return b"".join(char.encode("latin-1" if "\x80" <= char <= "\x9f" else "cp1252") for char in text)


def name_mojibake(text: str) -> str:
    """Why the text is unreadable for good, naming the likely codec; empty if it looks readable.

    Bytes were lost, so the test is whether most of what remains turns into Hangul.
    """
    if "\ufffd" in text:
        return "holds U+FFFD: bytes were lost when it was decoded"
    foreign = sum(ord(char) > 127 for char in text)
    if foreign < 6 or len(HANGUL.findall(text)) > 0.9 * foreign:
        return ""  # Korean; UTF-8 read as cp949 is a third Han characters
    for codec in (*REPAIRED_FROM, *NAMED_ONLY):
        decoded = text.encode(codec, "ignore").decode("utf-8", "ignore")
        hangul = len(HANGUL.findall(decoded))
        # three foreign characters make one syllable; most of them may be lost
        if hangul >= 2 and hangul * 3 >= foreign * 0.4:
            return f"UTF-8 read as {codec}, e.g. {decoded[:20]!r}; export it again as UTF-8"
    return ""
