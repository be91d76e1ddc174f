"""How much an answer resembles the reference, and how it behaves: scores of one text, each a number.

sacrebleu where it is right for Korean (chrF++, BLEU on mecab-ko morphemes). Our own where no kept library is: the
package rouge-score drops Hangul (equal Korean sentences score 0) and was last released in 2022; KorQuAD's rules are
a script; refusals are known by phrases.
"""

import re
import string
from collections import Counter
from functools import cache
from typing import Any

KORQUAD_SYMBOLS = re.compile(r"['\"《》<>〈〉()‘’]")
PUNCTUATION = str.maketrans("", "", string.punctuation)
REFUSAL = re.compile(
    r"없는 (내용|정보)|(나와|나타나|적혀|안내되어|안내돼|명시되어|기재되어|쓰여) ?있지 않|알 수 (가 )?없"
    r"|알지 못|모르겠|모릅니다|확인할 수 없|답(변)?(할|드릴) 수 없|안내서에는? 없|자료에는? 없|정보가 없"
    r"|\b(do(es)? not|don't|doesn't|cannot|can't) (know|say|state|mention|tell)|no information|not (mentioned|stated)",
    re.IGNORECASE,
)
"""Phrases by which an answer says that it doesn't know."""

REPEATED_WORDS = 4


@cache
def chrf_metric() -> Any:
    """chrF++ (word order 2) by sacrebleu: character n-grams, which need no Korean word segmentation."""
    from sacrebleu.metrics import CHRF

    return CHRF(word_order=2)


@cache
def bleu_metric() -> Any:
    """Sentence BLEU by sacrebleu on mecab-ko's morphemes: split at spaces, Korean particles hide equal words."""
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize="ko-mecab", effective_order=True)


def signatures() -> dict[str, str]:
    """Each text score's own description; two runs must share them to be compared."""
    same = ("같은 문장", ["같은 문장"])
    chrf_metric().sentence_score(*same)  # a signature holds the number of references of the last call
    bleu_metric().sentence_score(*same)
    return {
        "chrf": str(chrf_metric().get_signature()),
        "bleu": str(bleu_metric().get_signature()),
        "rouge_l": "graft|words:unicode|case:lower|beta:1",
        "korquad": "KorQuAD v1.0 evaluate script",
        "refusal": f"graft|phrases:{len(REFUSAL.pattern)}",
        "repetition": f"graft|words:{REPEATED_WORDS}",
    }


def chrf(reference: str, text: str) -> float:
    """chrF++ in [0, 1]."""
    return chrf_metric().sentence_score(text, [reference]).score / 100


def bleu(reference: str, text: str) -> float:
    """Sentence BLEU in [0, 1]; orders longer than the text are left out."""
    return min(1.0, bleu_metric().sentence_score(text, [reference]).score / 100)


def rouge_l(reference: str, text: str) -> float:
    """F1 of the longest common subsequence of words, in [0, 1]. Source: Lin, ROUGE, 2004, section 3.

    A word is a run of letters and digits in any script.
    """
    wanted, found = (re.findall(r"\w+", side.lower()) for side in (reference, text))
    common = longest_common_subsequence(wanted, found)
    return 2 * common / (len(wanted) + len(found)) if common else 0.0


def longest_common_subsequence(left: list[str], right: list[str]) -> int:
    """The length of the longest sequence of words that both hold in this order."""
    row = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for index, other in enumerate(right):
            above = row[index + 1]
            row[index + 1] = diagonal + 1 if word == other else max(above, row[index])
            diagonal = above
    return row[-1]


def korquad_normalised(text: str) -> str:
    """An answer as KorQuAD 1.0's evaluation script compares it."""
    return " ".join(KORQUAD_SYMBOLS.sub(" ", text).lower().translate(PUNCTUATION).split())


def korquad_exact(reference: str, text: str) -> float:
    """1.0 for equal texts after KorQuAD's normalisation, else 0.0."""
    return float(korquad_normalised(reference) == korquad_normalised(text))


def korquad_f1(reference: str, text: str) -> float:
    """F1 of the two bags of characters after KorQuAD's normalisation, in [0, 1]."""
    wanted, found = (Counter("".join(korquad_normalised(side).split())) for side in (reference, text))
    common = (wanted & found).total()
    return 2 * common / (wanted.total() + found.total()) if common else 0.0


def refusal(text: str) -> float:
    """1.0 if the text says that it doesn't know, else 0.0."""
    return float(REFUSAL.search(text) is not None)


def repetition(text: str) -> float:
    """Share of runs of four words that occurred before in the text, in [0, 1].

    Source: Welleck et al., Neural text generation with unlikelihood training, 2019 (seq-rep-4), by words.
    """
    words = text.split()
    runs = [tuple(words[start : start + REPEATED_WORDS]) for start in range(len(words) - REPEATED_WORDS + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


OVERLAP = {"chrf": chrf, "bleu": bleu, "rouge_l": rouge_l, "korquad_exact": korquad_exact, "korquad_f1": korquad_f1}
"""Scores of a text against a reference, by the names they have in metrics/eval.json."""
