"""A second look at questions from documents: a language model rates each, and those with low scores are dropped.

{"clear": 5, "complete": 4, "grounded": 5}
"""

from collections.abc import Callable

from stages.lib.asking.answer_models import Ask
from stages.lib.pdf_qa.written_questions import objects_in, without_thinking

REASONS = {"clear": "rated_unclear", "complete": "rated_incomplete", "grounded": "rated_ungrounded"}
"""What is rated, and the reason code of a score that is too low."""
RATED = (*REASONS.values(), "unreadable_rating")
HIGHEST = 5

PROMPT = """\
Below are a text, and a question and an answer that were made from it to train a model. Rate them, each from 1 (not at
all) to 5 (fully):
- clear: can someone who doesn't see the text understand what is asked, and about what?
- complete: does the answer answer the whole question?
- grounded: does the text say everything that the answer says?
Reply with JSON alone: {{"clear": 1-5, "complete": 1-5, "grounded": 1-5}}

Text:
{text}

Question: {question}
Answer: {answer}
"""

Scores = dict[str, int]
Rate = Callable[[str, str, str], tuple[Scores, str, str]]
"""From question, answer and text to the scores, a reason code and what was found; the latter two empty if it is good.
"""


def make_rate(ask: Ask, least: int) -> Rate:
    """A rating by `ask`, by which a pair with a score below `least` is dropped."""

    def rate(question: str, answer: str, text: str) -> tuple[Scores, str, str]:
        response = ask(PROMPT.format(text=text, question=question, answer=answer), lambda said: bool(scores_in(said)))
        scores = scores_in(response)
        if not scores:
            return {}, "unreadable_rating", f"found {response[:60]!r}, needed scores from 1 to {HIGHEST} as JSON"
        low = min(scores, key=scores.__getitem__)
        if scores[low] < least:
            return scores, REASONS[low], f"{low}: {scores[low]} of {HIGHEST}, needed {least}"
        return scores, "", ""

    return rate


def scores_in(response: str) -> Scores:
    """The scores of a response, none where one is missing or is no whole number from 1 to 5."""
    found, _ = objects_in(without_thinking(response))
    for value in reversed(found):
        scores = {name: value.get(name) for name in REASONS}
        if all(type(score) is int and 1 <= score <= HIGHEST for score in scores.values()):
            return {name: score for name, score in scores.items() if isinstance(score, int)}
    return {}
