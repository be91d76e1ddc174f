"""What a language model is asked to write from a piece of a document, and what of its response can be used.

[{"kind": "fact", "questions": ["여권은 며칠 만에 나오나요?", "여권은 언제 나오나요?"], "answer": "나흘 걸립니다."}]

Models think first, put fences around JSON, wrap it into an object, or are truncated at their limit of tokens: what is
whole in a response is used, and what isn't is named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stages.lib.schema.choices import QuestionKind

KINDS = {
    QuestionKind.fact: ("무엇·언제·어디·누구·얼마를 묻는 질문", "asks what, when, where, who or how much"),
    QuestionKind.procedure: ("어떻게 하는지 묻는 질문", "asks how something is done"),
    QuestionKind.reason: ("왜 그런지 묻는 질문", "asks why something is so"),
    QuestionKind.definition: ("낱말의 뜻을 묻는 질문", "asks what a term means"),
    QuestionKind.summary: ("글의 내용을 간추려 달라는 질문", "asks for the gist of what the text says about something"),
}
"""What each kind of question is, in Korean and in English."""

KOREAN = """\
아래 글만 보고 질문과 답을 만드십시오. 글에 없는 내용은 쓰지 마십시오.
- 질문은 글을 보지 않은 사람이 물을 수 있는 완전한 문장이어야 합니다. "이 글", "위 표"처럼 가리키는 말을 쓰지 마십시오.
- 답은 질문에 온전히 답하는 문장이어야 하고, 숫자와 이름은 글에 적힌 그대로여야 합니다.
- 글이 뒷받침하는 만큼만, 다음 종류의 질문을 고루 만드십시오:
{kinds}
- 질문마다 뜻은 같고 표현이 다른 문장을 {wordings}개 쓰십시오.
JSON 배열만 출력하십시오: [{{"kind": "{first}", "questions": [{strings}], "answer": "…"}}]

문서: {title}
글:
{text}
"""
ENGLISH = """\
Write questions and answers from the text below alone, in the language of the text. Add nothing that it doesn't say.
- A question is a whole sentence that someone who has not seen the text could ask. Never write "this text" or "the table
  above".
- An answer is a sentence that answers the whole question; numbers and names are written as in the text.
- As far as the text supports them, write questions of each of these kinds:
{kinds}
- Put each question in {wordings} different wordings that mean the same.
Reply with a JSON array alone: [{{"kind": "{first}", "questions": [{strings}], "answer": "…"}}]

Document: {title}
Text:
{text}
"""

THINKING = re.compile(r"<(think|thinking|thought|reasoning)>.*?</\1>", re.DOTALL)
THOUGHT = re.compile(r".*</(?:think|thinking|thought|reasoning)>", re.DOTALL)
"""Where the prompt has opened it already."""
UNFINISHED = re.compile(r"<(?:think|thinking|thought|reasoning)>.*", re.DOTALL)
NOTHING = re.compile(r"\[\s*\]")
QUESTIONS = ("questions", "question", "질문")
ANSWERS = ("answer", "답", "답변")
DECODER = json.JSONDecoder(strict=False)  # models write line breaks into strings


@dataclass
class Written:
    """An answer and the wordings of its question, at least one; `kind` is as the model named it."""

    questions: list[str]
    answer: str
    kind: str


def question_prompt(text: str, title: str, korean: bool, kinds: list[QuestionKind], wordings: int) -> str:
    """The prompt for a piece of a document: in Korean for a Korean one, else in English, asking for its language."""
    listed = "\n".join(f"  {kind.value}: {KINDS[kind][not korean]}" for kind in kinds)
    return (KOREAN if korean else ENGLISH).format(
        text=text, title=title, kinds=listed, wordings=wordings, first=kinds[0].value,
        strings=", ".join(['"…"'] * wordings),
    )  # fmt: skip


def written_in(response: str) -> tuple[list[Written], list[str]]:
    """The pairs of a response, and what of it can't be used, in words; a model may find nothing to ask, and say []."""
    pairs, complaints = [], []
    said = without_thinking(response)
    found, rest = objects_in(said)
    for value in found:
        pair = pair_of(value)
        if pair:
            pairs.append(pair)
        else:
            complaints.append(f"found no question and answer as texts in {json.dumps(value, ensure_ascii=False)[:80]}")
    if "{" in rest:
        complaints.append(f"it is truncated within {rest[rest.index('{') :][:60]!r}; raise max_new_tokens")
    if not pairs and not complaints and not NOTHING.search(said):
        thinking = "it ends while it thinks; raise max_new_tokens" if UNFINISHED.search(response) else ""
        complaints.append(thinking or "found no JSON array of questions and answers")
    return pairs, complaints


def usable(response: str) -> bool:
    """Whether a response has a pair, or says that there is none: then it needn't be asked for again."""
    pairs, complaints = written_in(response)
    return bool(pairs) or not complaints


def without_thinking(response: str) -> str:
    """A response without what the model thought before it, marked at both ends, at one, or truncated."""
    return UNFINISHED.sub("", THOUGHT.sub("", THINKING.sub("", response)))


def objects_in(text: str) -> tuple[list[dict[str, Any]], str]:
    """The JSON objects that a text holds, those within wrappers one by one, and the text behind the last of them."""
    found: list[dict[str, Any]] = []
    end = start = 0
    while (start := text.find("{", start)) >= 0:
        try:
            value, end = DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            start += 1
            continue
        found += unwrapped(value)
        start = end
    return found, text[end:]


def unwrapped(value: Any) -> Iterator[dict[str, Any]]:
    """Yield an object, or those in its lists if it has such: {"pairs": [{…}, …]}."""
    inner = [each for part in value.values() if isinstance(part, list) for each in part if isinstance(each, dict)]
    if inner:
        for each in inner:
            yield from unwrapped(each)
    else:
        yield value


def pair_of(value: dict[str, Any]) -> Written | None:
    """The pair in an object; None if it has none."""
    asked = next((value[name] for name in QUESTIONS if name in value), None)
    answer = next((value[name] for name in ANSWERS if name in value), None)
    questions = [asked] if isinstance(asked, str) else asked
    if not isinstance(questions, list) or not isinstance(answer, str):
        return None
    told = list(dict.fromkeys(question.strip() for question in questions if isinstance(question, str)))
    told = [question for question in told if question]
    kind = value.get("kind")
    return Written(told, answer.strip(), kind if isinstance(kind, str) else "") if told and answer.strip() else None
