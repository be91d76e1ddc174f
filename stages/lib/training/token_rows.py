"""Prepared records as the token ids that trainers take; what is too long is truncated or dropped, and counted.

Raw text ends in no stop token: that token says that an answer is over, a passage is none, and its document goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import read_jsonl, share_of
from stages.lib.models.chat import IGNORED, Messages, Origin, TokenRow, encode, encode_answer, encode_last
from stages.lib.schema.choices import LossOn, Overlong, PairSource
from stages.lib.schema.training import Heal, Sft

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def supervised_rows(
    section: Sft | Heal, files: dict[Path, int], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[TokenRow], dict[str, int]]:
    """Tokenise conversations into rows of id, source, input_ids, labels (of equal length, at most max_length tokens).

    `source` is the data set's name, that of its file's directory.

    `files` says how often each file's rows are in one epoch. A conversation is one row, and one more for each answer
    that its template writes otherwise in the middle than at the end. A record of raw text is one row, marked `raw`, or
    several where it is too long. Returns the rows and how many records were truncated or dropped, by reason. Raises
    UserError if none is left.
    """
    rows: list[TokenRow] = []
    counts = {"cut_turns": 0, "truncated": 0, "dropped_too_long": 0}
    for path, times in files.items():
        for record in read_jsonl(path):
            origin: Origin = {"id": record["id"], "source": path.parent.name}
            if "text" in record:
                passages = raw_rows(origin, record["text"], tokenizer, section.max_length)
                if len(passages) > 1:
                    counts["text_cut"] = counts.get("text_cut", 0) + 1
                rows += passages * times
                continue
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
            rows += [{**origin, "input_ids": ids, "labels": labels}] * times
            if section.loss_on is LossOn.assistant:
                rows += earlier_answers(origin, messages, encoded.elsewhere, tokenizer) * times
    if not rows:
        raise UserError(
            f"no training rows: {counts['dropped_too_long']} conversations are longer than "
            f"{section.NAME}.max_length={section.max_length} tokens; raise it, or give sft.mix a data set with "
            "shorter ones"
        )
    return rows, counts


def raw_rows(origin: Origin, text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[TokenRow]:
    """Raw text from `origin` as rows of at most `max_length` tokens and about equal length; every token is learned.

    Each begins with what the tokenizer puts before any text (Llama's and Gemma's BOS); the first token has nothing
    before it to be learned from. A cut is no harm: nothing says that the text ends there.
    """
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    before = tokenizer("", add_special_tokens=True)["input_ids"]
    begin = before[:1] if before and before[0] == tokenizer.bos_token_id else []
    count = -(-len(bare) // max(1, max_length - len(begin)))
    rows: list[TokenRow] = []
    for number in range(count):
        ids = [*begin, *bare[number * len(bare) // count : (number + 1) * len(bare) // count]]
        if len(ids) > 1:
            rows.append({**origin, "input_ids": ids, "labels": [IGNORED, *ids[1:]], "raw": True})
    return rows


def earlier_answers(
    origin: Origin, messages: Messages, places: list[int], tokenizer: PreTrainedTokenizerBase
) -> list[TokenRow]:
    """Rows from `origin`, each of which learns one of the answers at `places` as it is generated: as the last one.

    Templates that write earlier answers otherwise than new ones, such as Qwen3's, need them (see chat.Encoded).
    """
    rows: list[TokenRow] = []
    for place in places:
        encoded = encode_last(tokenizer, messages[: place + 1])
        pairs = zip(encoded.input_ids, encoded.by_assistant, strict=True)
        labels = [token if on else IGNORED for token, on in pairs]
        rows.append({**origin, "input_ids": encoded.input_ids, "labels": labels})
    return rows


def preference_rows(
    name: str, files: dict[Path, float], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[dict[str, list[int]]], dict[str, int]]:
    """Tokenise the pairs of all `files` as trl's collator takes them: prompt_ids, chosen_ids, rejected_ids.

    Of each file the given share of pairs, 0 to 1, is taken, and all that people voted for; which ones depends on their
    ids alone. Both answers end with their stop token. A pair longer than `max_length` tokens is dropped and counted:
    trl would cut the end of the answer, stop token and all. Raises UserError if no pair is left.
    """
    pairs, dropped = [], {"too_long": 0, "beyond_share": 0}
    for path, share in files.items():
        for record in read_jsonl(path):
            voted = record.get("source") == PairSource.votes.value
            if not voted and share_of(record["id"]) >= share:
                dropped["beyond_share"] += 1
                continue
            prompt, chosen = encode_answer(tokenizer, record["prompt"], record["chosen"])
            _, rejected = encode_answer(tokenizer, record["prompt"], record["rejected"])
            if len(prompt) + max(len(chosen), len(rejected)) > max_length:
                dropped["too_long"] += 1
            else:
                pairs.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    if not pairs:
        found = ", ".join(map(str, files))
        raise UserError(
            f"{found}: no pair is left: {dropped['too_long']} are longer than {name}.max_length={max_length} tokens"
            + (f", {dropped['beyond_share']} beyond {name}.prepared_share" if dropped["beyond_share"] else "")
            + "; raise it"
        )
    return pairs, dropped


def pair_lengths(pairs: list[dict[str, list[int]]]) -> list[int]:
    """Tokens of each pair's longer side, prompt included."""
    return [len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"])) for pair in pairs]
