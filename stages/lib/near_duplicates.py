"""Questions that differ by a slip of the pen, found without comparing all with all.

MinHash signatures of character trigrams, banded (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive
Datasets, 3.4), then the exact similarity of each candidate pair. On short Korean questions similarity alone is
inverted: two years' deadlines score 0.93, true paraphrases 0.40 to 0.71. So a pair counts only if numbers, Latin words
and negations are equal, which is part of the band's key and keeps numbered templates out of each other's buckets.
"""

import re
from array import array
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np

from stages.lib.clarity import letters
from stages.lib.records import normalised

THRESHOLD = 0.9
BANDS, ROWS = 10, 5
"""At a similarity of 0.9 a pair is missed with probability (1 - 0.9**5)**10 = 0.0001."""
SIGNED = 500
"""Characters of a question that its signature is made of: more would only cost time."""
COMPARED = 16
"""Earlier members of a bucket that a question is compared with: a bucket of n costs 16 n, not n * n."""

NEGATIONS = re.compile(
    r"않|없|못|아니|아닌|말고|말아|금지|불가|제외|외에|(?<!\S)안(?!\S)|n't\b|\b(?:not|no|never|without|except)\b"
)
FOREIGN = re.compile("[가-힣ぁ-ヿ一-鿿Ѐ-ӿ]")
_random = np.random.default_rng(1997)
FACTORS = _random.integers(1, 2**61, size=BANDS * ROWS, dtype=np.uint64) | np.uint64(1)
OFFSETS = _random.integers(0, 2**61, size=BANDS * ROWS, dtype=np.uint64)


class NearDuplicates:
    """An index of questions; it holds 8 bytes a band, so 80 bytes a question, and sorts them once."""

    def __init__(self) -> None:
        self.keys = array("Q")
        self.numbers = array("Q")

    def add(self, number: int, question: str, answer: str = "") -> None:
        """Add a question under a number; numbers must rise."""
        self.numbers.append(number)
        self.keys.frombytes(band_keys(question, answer).tobytes())

    def candidates(self) -> Iterator[tuple[int, int]]:
        """Yield (earlier, later) numbers of questions that share a band, the later in rising order, each pair once."""
        keys = np.frombuffer(self.keys, dtype=np.uint64) if self.keys else np.empty(0, np.uint64)
        order = np.argsort(keys, kind="stable")
        same = keys[order[1:]] == keys[order[:-1]]
        pairs = []
        starts = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)) == 1)
        ends = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)) == -1)
        for start, end in zip(starts, ends, strict=True):
            bucket = order[start : end + 1] // BANDS
            for place in range(1, len(bucket)):
                pairs += [(int(bucket[place]), int(earlier)) for earlier in bucket[max(0, place - COMPARED) : place]]
        for later, earlier in sorted(set(pairs)):
            yield self.numbers[earlier], self.numbers[later]


def near(question: str, answer: str, other_question: str, other_answer: str) -> bool:
    """Whether two pairs say the same: questions nearly equal, numbers, names and negations equal, answers agreeing."""
    return (
        guard(question) == guard(other_question)
        and guard(answer) == guard(other_answer)
        and similarity(question, other_question) >= THRESHOLD
        and similarity(answer, other_answer) >= THRESHOLD
    )


def guard(text: str) -> str:
    """What must be equal in near-duplicates: numbers, names and negations, in order.

    Names are Latin words in a text of another script, and in a Latin text those with a capital inside a sentence.
    """
    names = r"[A-Za-z]+" if FOREIGN.search(text) else r"(?<=[\w,;] )[A-Z]\w*"
    found = re.findall(rf"{names}|\d[\d.,:/-]*\d|\d", text)
    return "|".join([*found, "!", *NEGATIONS.findall(text.casefold())]).casefold()


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of the character trigrams of two texts, from 0 to 1."""
    ours, theirs = trigrams(letters(one)), trigrams(letters(other))
    return len(ours & theirs) / len(ours | theirs) if ours or theirs else 1.0


def trigrams(text: str) -> set[str]:
    """All runs of three characters, or the text itself if it is shorter."""
    return {text[start : start + 3] for start in range(max(1, len(text) - 2))} if text else set()


def band_keys(question: str, answer: str) -> np.ndarray:
    """One 64-bit key a band, from the question's MinHash signature and both guards."""
    text = letters(question)[:SIGNED].ljust(3)
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    with np.errstate(over="ignore"):
        shingles = mix(
            points[:-2] * np.uint64(0x1F123BB5159A55E5) + points[1:-1] * np.uint64(0x9E3779B97F4A7C15) + points[2:]
        )
        signature = mix(shingles[:, None] * FACTORS + OFFSETS).min(axis=0).reshape(BANDS, ROWS)
        salt = np.uint64(hash_of(guard(question) + "\n" + guard(answer)))
        weights = FACTORS[:ROWS]
        return mix((signature * weights).sum(axis=1, dtype=np.uint64) + salt + OFFSETS[:BANDS])


def mix(values: np.ndarray) -> np.ndarray:
    """Spread the bits of 64-bit integers (the finalizer of MurmurHash3)."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    return values ^ (values >> np.uint64(33))


def hash_of(text: str) -> int:
    """A 64-bit number of a text that is the same in every process, unlike hash()."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


class KnownQuestions:
    """A few questions, such as an evaluation set's, against which many are checked one at a time."""

    def __init__(self) -> None:
        self.equal: dict[str, str] = {}
        self.bands: dict[int, list[tuple[str, str]]] = {}

    def add(self, name: str, question: str) -> None:
        """Remember a question under the name that `find` reports."""
        self.equal.setdefault(normalised(question), name)
        for key in band_keys(question, "").tolist():
            self.bands.setdefault(key, []).append((name, question))

    def find(self, question: str) -> str:
        """The name of a remembered question that is equal but for spacing and punctuation, or nearly so; else ''."""
        if name := self.equal.get(normalised(question)):
            return name
        for key in band_keys(question, "").tolist():
            for name, known in self.bands.get(key, ()):
                if near(question, "", known, ""):
                    return name
        return ""
