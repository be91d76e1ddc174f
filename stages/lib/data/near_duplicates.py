"""Questions that differ by a slip of the pen, found without comparing all with all.

MinHash signatures of character trigrams, banded (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive
Datasets, 3.4), find candidates; their exact similarity decides. On short Korean questions similarity alone is inverted:
two years' deadlines score 0.93, true paraphrases 0.40 to 0.71. So a pair counts only if numbers, names and negations
are equal. They are part of every trigram that is signed, which keeps numbered templates out of each other's buckets.

rensa and not datasketch, measured on 100,000 questions: 3 s and 84 MiB against 13 s and 392 MiB, the same pairs, and no
145 MB of scipy.
"""

import re

from rensa import RMinHash, RMinHashLSH

from stages.lib.data.comparison import letters, trigrams

THRESHOLD = 0.9
BANDS, ROWS = 10, 5
"""At a similarity of 0.9 a pair is missed with probability (1 - 0.9**5)**10 = 0.0001."""
SEED = 1997
SIGNED = 500
"""Characters of a question that its signature is made of: more would only cost time."""
COMPARED = 16
"""Earlier questions that one is compared with, the newest: n near duplicates cost 16 n comparisons, not n * n."""

NEGATIONS = re.compile(
    r"않|없|못|아니|아닌|말고|말아|금지|불가|제외|외에|(?<!\S)안(?!\S)|n't\b|\b(?:not|no|never|without|except)\b"
)
FOREIGN = re.compile("[가-힣ぁ-ヿ一-鿿Ѐ-ӿ]")


class NearDuplicates:
    """An index of questions under rising numbers, 0.9 to 1.6 KB each: 92 MiB for 100,000, 1.5 GiB for a million."""

    def __init__(self) -> None:
        self.index = RMinHashLSH(threshold=THRESHOLD, num_perm=BANDS * ROWS, num_bands=BANDS)

    def add(self, number: int, signed: RMinHash) -> None:
        """Add a question's signature under a number."""
        self.index.insert(number, signed)

    def candidates(self, signed: RMinHash) -> list[int]:
        """The numbers of questions that may be nearly the signed one, at most COMPARED, in rising order."""
        return sorted(self.index.query(signed))[-COMPARED:]


def signature(question: str, answer: str = "") -> RMinHash:
    """What the index holds of a question and the guards of both texts."""
    guards = f"{guard(question)}\n{guard(answer)}\n"
    signed = RMinHash(num_perm=BANDS * ROWS, seed=SEED)
    signed.update([guards + trigram for trigram in trigrams(letters(question)[:SIGNED])])
    return signed


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


class KnownQuestions:
    """A few questions, such as an evaluation set's, against which many are checked one at a time."""

    def __init__(self) -> None:
        self.equal: dict[str, str] = {}
        self.index = NearDuplicates()
        self.known: list[tuple[str, str]] = []  # name, question

    def add(self, name: str, question: str) -> None:
        """Remember a question under the name that `find` reports."""
        self.equal.setdefault(letters(question), name)
        self.index.add(len(self.known), signature(question))
        self.known.append((name, question))

    def find(self, question: str) -> str:
        """The name of a remembered question that is equal but for spacing and punctuation, or nearly so; else ''.

        Equal ones are looked up first: '안 쉬나요' and '안쉬나요' have different guards.
        """
        if name := self.equal.get(letters(question)):
            return name
        for number in self.index.candidates(signature(question)):
            name, known = self.known[number]
            if near(question, "", known, ""):
                return name
        return ""
