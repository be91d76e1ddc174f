"""Prepared records as the token ids that trainers take; what is too long is cut or dropped, and counted."""

from pathlib import Path
from typing import Any

from stages.lib.errors import UserError
from stages.lib.models.chat import IGNORED, Messages, encode, encode_answer, encode_last
from stages.lib.records import read_jsonl
from stages.lib.schema.choices import LossOn, Overlong
from stages.lib.schema.training import Sft


def supervised_rows(
    section: Sft, files: dict[Path, int], tokenizer: Any
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Tokenise conversations into rows of id, source, input_ids, labels (of equal length, at most max_length tokens).

    `source` is the data set's name, that of its file's directory.

    `files` says how often each file's rows are in one epoch. A conversation is one row, and one more for each answer
    that its template writes otherwise in the middle than at the end. Returns the rows and how many conversations were
    cut or dropped, by reason. Raises UserError if none is left.
    """
    rows = []
    counts = {"cut_turns": 0, "truncated": 0, "dropped_too_long": 0}
    for path, times in files.items():
        for record in read_jsonl(path):
            messages = record["messages"]
            encoded = encode(tokenizer, messages)
            while (
                section.overlong is Overlong.cut_turns
                and len(encoded.input_ids) > section.max_length
                and len(messages) > 2
            ):
                messages = messages[:-2]
                encoded = encode(tokenizer, messages)
            too_long = len(encoded.input_ids) > section.max_length
            if too_long and section.overlong is Overlong.cut_turns:
                counts["dropped_too_long"] += 1
                continue
            counts["cut_turns"] += len(messages) < len(record["messages"])
            counts["truncated"] += too_long
            ids = encoded.input_ids[: section.max_length]
            learned = encoded.by_assistant if section.loss_on is LossOn.assistant else [True] * len(ids)
            labels = [token if on else IGNORED for token, on in zip(ids, learned, strict=False)]
            origin = {"id": record["id"], "source": path.parent.name}
            rows += [{**origin, "input_ids": ids, "labels": labels}] * times
            if section.loss_on is LossOn.assistant:
                rows += earlier_answers(origin, messages, encoded.elsewhere, tokenizer) * times
    if not rows:
        raise UserError(
            f"no training rows: {counts['dropped_too_long']} conversations are longer than sft.max_length="
            f"{section.max_length} tokens; raise it, or give sft.mix a data set with shorter ones"
        )
    return rows, counts


def earlier_answers(
    origin: dict[str, str], messages: Messages, places: list[int], tokenizer: Any
) -> list[dict[str, Any]]:
    """Rows from `origin`, each of which learns one of the answers at `places` as it is generated: as the last one.

    Templates that write earlier answers otherwise than new ones, such as Qwen3's, need them (see chat.Encoded).
    """
    rows = []
    for place in places:
        encoded = encode_last(tokenizer, messages[: place + 1])
        pairs = zip(encoded.input_ids, encoded.by_assistant, strict=True)
        labels = [token if on else IGNORED for token, on in pairs]
        rows.append({**origin, "input_ids": encoded.input_ids, "labels": labels})
    return rows


def preference_rows(
    name: str, path: Path, tokenizer: Any, max_length: int
) -> tuple[list[dict[str, list[int]]], dict[str, int]]:
    """Tokenise pairs as trl's collator takes them: prompt_ids, chosen_ids, rejected_ids.

    Both answers end with their stop token. A pair longer than `max_length` tokens is dropped and counted: trl would
    cut the end of the answer, stop token and all. Raises UserError if no pair is left.
    """
    pairs, too_long = [], 0
    for record in read_jsonl(path):
        prompt, chosen = encode_answer(tokenizer, record["prompt"], record["chosen"])
        _, rejected = encode_answer(tokenizer, record["prompt"], record["rejected"])
        if len(prompt) + max(len(chosen), len(rejected)) > max_length:
            too_long += 1
        else:
            pairs.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    if not pairs:
        raise UserError(f"{path}: all {too_long} pairs are longer than {name}.max_length={max_length} tokens; raise it")
    return pairs, {"too_long": too_long}


def pair_lengths(pairs: list[dict[str, list[int]]]) -> list[int]:
    """Tokens of each pair's longer side, prompt included."""
    return [len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"])) for pair in pairs]
