"""More wordings of a training question: by templates, or there and back through another language by a model.

The answer stays. A rewording counts only if numbers, names and negations are those of the question.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from stages.lib.asking.answer_models import Ask
from stages.lib.data.comparison import hash_of, letters
from stages.lib.data.near_duplicates import KnownQuestions, guard
from stages.lib.every_stage.records import read_jsonl
from stages.lib.models.chat_template import Messages
from stages.lib.pdf_qa.review_decisions import Review

TEMPLATES = [
    (re.compile(r"^(.+?)(?:은|는|이|가) (?:무엇|뭐)(?:인가요|입니까|예요|죠)\?$"), "{0}에 대해 알려 주세요."),
    (
        re.compile(r"^(.+?)(?:은|는|이|가) (얼마|언제|어디|누구|며칠|몇 \S+)(?:인가요|입니까|예요|이에요)\?$"),
        "{0}, {1}인지 알려 주세요.",
    ),
    (re.compile(r"^(.+)의 (.+?)(?:은|는)\?$"), "{0}의 {1}을(를) 알려 주세요."),
    (re.compile(r"^(.+\?)$"), "궁금한 것이 있습니다. {0}"),
    (re.compile(r"^(.+\?)$"), "다음 질문에 답해 주세요: {0}"),
    (re.compile(r"^(.+[.])$"), "부탁드립니다. {0}"),
]
THERE = "Translate this question into English. Write the translation only.\n\n{text}"
BACK = "다음 질문을 한국어로 옮기십시오. 번역문만 쓰십시오.\n\n{text}"


def by_templates(question: str) -> Iterator[str]:
    """Yield the question in the form of each template that fits it."""
    for pattern, form in TEMPLATES:
        if found := pattern.match(question):
            text = form.format(*found.groups())
            yield text.replace("을(를)", "을" if ends_in_consonant(text.split("을(를)")[0]) else "를")


def by_back_translation(question: str, ask: Ask) -> Iterator[str]:
    """Yield the question after a way through English and back."""
    english = ask(THERE.format(text=question)).strip()
    yield ask(BACK.format(text=english)).strip()


def says_the_same(question: str, rewording: str) -> bool:
    """Whether a rewording keeps numbers, names and negations, and is another text."""
    return bool(rewording) and guard(question) == guard(rewording) and letters(question) != letters(rewording)


def ends_in_consonant(text: str) -> bool:
    """Whether the last syllable of a Korean text has a final consonant."""
    return bool(text) and "가" <= text[-1] <= "힣" and (ord(text[-1]) - ord("가")) % 28 > 0


def add_rewordings(
    out: Path,
    evaluation: Sequence[str],
    wordings: int,
    ask: Ask | None,
    fits: Callable[[Messages], bool],
    review: Review,
) -> dict[str, int]:
    """Add up to `wordings` rewordings after each row of `out`/train.jsonl, by templates or by `ask`.

    Returns how many were added, and how many weren't because they change what is asked, because a person rejected
    them, because the question is there already or nearly one of the `evaluation` splits', or because it doesn't fit
    (`fits`) into a training row.
    """
    known, taken = KnownQuestions(), set()
    for split in ("train", *evaluation):
        for row in read_jsonl(out / f"{split}.jsonl"):
            question = row["messages"][0]["content"]
            taken.add(hash_of(letters(question)))
            if split in evaluation:
                known.add(row["id"], question)
    counts = {"added": 0, "changed_meaning": 0, "rejected_in_review": 0, "asked_already": 0, "unfit": 0}
    new = out / "train.jsonl.new"
    with new.open("w", encoding="utf-8") as file:
        for row in read_jsonl(out / "train.jsonl"):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            question = row["messages"][0]["content"]
            found = by_templates(question) if ask is None else by_back_translation(question, ask)
            for number, wording in enumerate(islice(found, wordings), start=1):
                answer, identity = row["messages"][1]["content"], f"{row['id']}~{number}"
                verdict = review.verdict((identity,), wording, answer)
                wording, answer = verdict.question, verdict.answer
                if verdict.decision:
                    review.applied[verdict.decision] += 1
                if verdict.decision == "reject":
                    counts["rejected_in_review"] += 1
                elif not verdict.decision and not says_the_same(question, wording):
                    counts["changed_meaning"] += 1
                elif hash_of(letters(wording)) in taken or known.find(wording):
                    counts["asked_already"] += 1
                elif not fits(
                    messages := [{"role": "user", "content": wording}, {"role": "assistant", "content": answer}]
                ):
                    counts["unfit"] += 1
                else:
                    counts["added"] += 1
                    taken.add(hash_of(letters(wording)))
                    reworded = {**row, "id": identity, "messages": messages, "reworded": True}
                    file.write(json.dumps(reworded, ensure_ascii=False) + "\n")
    os.replace(new, out / "train.jsonl")
    return counts
