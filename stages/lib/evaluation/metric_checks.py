"""Every metric is tried on texts whose score is known, and every prompt looked at, before any model is asked.

A metric that drops Hangul gives equal sentences 0 and different addresses 1, without an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stages.lib.evaluation.key_facts import key_exact, key_of, key_recall
from stages.lib.evaluation.scored_rows import Record
from stages.lib.evaluation.text_scores import OVERLAP, refusal, repetition
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Overlap = Mapping[str, Callable[[str, str], float]]

EQUAL = ["달여울시민청 주소는 달여울시 초롱돌로 417, 6층입니다.", "The library opens at 9:30 a.m.", "네, 가능합니다."]
DIFFERENT = [
    ("초롱돌로 417, 6층입니다.", "달무리길 417, 6층입니다."),  # shares every digit and no name
    ("온기보건소입니다.", "되살림자원팀이 맡습니다."),
    ("The library opens at 9.", "도서관은 9시에 엽니다."),
]


def refuse_broken_metrics(
    records: list[Record], overlap: Overlap = OVERLAP, says_refusal: Callable[[str], float] = refusal
) -> None:
    """Raise UserError naming every metric that gives a text of known score another one.

    `records` are evaluation rows of questions from PDFs: each reference must score full against itself, in whatever
    languages the set has.
    """
    problems = []
    references = [record["messages"][-1]["content"] for record in records]
    for name, metric in overlap.items():
        problems += [
            f"{name} gives {text!r} against itself {metric(text, text):.2f}, needed 1"
            for text in [*EQUAL, *references]
            if metric(text, text) < 1 - 1e-9
        ][:2]
        problems += [
            f"{name} gives {text!r} against {reference!r} {metric(reference, text):.2f}, needed less than 1"
            for reference, text in DIFFERENT
            if metric(reference, text) > 1 - 1e-9
        ]
        if metric(EQUAL[0], "") != 0:
            problems.append(f"{name} gives an empty answer {metric(EQUAL[0], ''):.2f}, needed 0")
    for record in records:
        reference = record["messages"][-1]["content"]
        key = record["key"] or key_of(reference)
        if record["answerable"] and (key_exact(key, reference), key_recall(key, reference)) != (1, 1):
            problems.append(f"key_exact and key_recall: {record['id']}: its own reference {reference!r} lacks {key}")
        if not record["answerable"] and not says_refusal(reference):
            problems.append(f"refusal: {record['id']}: its reference {reference!r} is not seen as a refusal")
    if key_exact(["초롱돌로 417"], "초롱돌로 4170"):
        problems.append("key_exact finds 417 in 4170")
    if says_refusal(EQUAL[0]):
        problems.append(f"refusal takes {EQUAL[0]!r} for a refusal")
    if repetition("가 나 다 라 마 바") != 0 or repetition("가 나 다 라 " * 9) < 0.8:
        problems.append("repetition doesn't tell a loop from a sentence")
    if problems:
        raise UserError(
            f"{len(problems)} metric self-tests failed, no score is written: {'; '.join(problems[:5])}. "
            "Fix the metric (stages/lib/evaluation/text_scores.py) or the row it names"
        )


def refuse_blurred_prompts(tokenizer: PreTrainedTokenizerBase, conversations: list[list[dict[str, str]]]) -> None:
    """Raise UserError for a prompt that begins with two BOS tokens, or isn't a prefix of prompt + answer.

    Both score a model on texts that it was never trained on. `conversations` end with the reference answer.
    """
    from stages.lib.models.chat import encode_answer

    begin = tokenizer.bos_token_id
    for messages in conversations:
        prompt, _ = encode_answer(tokenizer, messages[:-1], messages[-1]["content"])
        if begin is not None and prompt[:2] == [begin, begin]:
            raise UserError(
                f"the prompt {messages[0]['content'][:40]!r} begins with two {tokenizer.bos_token!r}: the chat "
                "template writes one and the tokenizer adds another. Take it out of chat_template.jinja or set "
                "add_bos_token to false in tokenizer_config.json"
            )


def refuse_other_templates(models: list[Path], base: Path) -> None:
    """Raise UserError unless all `models` talk by the template of `base`: scores would compare prompts, not models."""
    found = {directory: file_sha256(directory / "chat_template.jinja") for directory in models}
    others = [str(directory) for directory, digest in found.items() if digest != found[base]]
    if others:
        raise UserError(
            f"{', '.join(others)}: found a chat_template.jinja that is not {base}'s; needed the one it was trained "
            "with. Rebuild with `dvc repro`"
        )
