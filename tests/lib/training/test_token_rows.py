"""Rows for trainers: cut between turns, complete to the stop token, everything left out counted."""

import pytest
from conftest import tiny_training

from stages.dpo import PREFERENCES
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import read_jsonl, write_jsonl
from stages.lib.models.chat import IGNORED
from stages.lib.models.loading import load_tokenizer
from stages.lib.schema.choices import LossOn, Overlong
from stages.lib.schema.training import Sft
from stages.lib.training.token_rows import preference_rows, supervised_rows
from stages.sft import BASE, PDF_QA, ULTRACHAT

CHATS = {ULTRACHAT / "train.jsonl": 1}
BOTH = {**CHATS, PDF_QA / "train.jsonl": 1}


def section(**changes):
    return Sft(**tiny_training(**changes))


def test_long_conversations_are_truncated_between_turns_and_counted(place):
    tokenizer = load_tokenizer(BASE)
    whole, none_cut = supervised_rows(section(max_length=100_000), CHATS, tokenizer)
    assert none_cut == {"cut_turns": 0, "truncated": 0, "dropped_too_long": 0}
    rows, counts = supervised_rows(section(max_length=700), CHATS, tokenizer)
    assert counts["cut_turns"] > 0
    assert len(rows) + counts["dropped_too_long"] == len(whole)
    assert all(len(row["input_ids"]) <= 700 for row in rows)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert all([label for label in row["labels"] if label != -100][-1] == stop for row in rows)


def test_the_notebooks_way_learns_all_tokens_of_truncated_rows(place):
    options = {"loss_on": LossOn.all, "overlong": Overlong.truncate}
    rows, counts = supervised_rows(section(max_length=300, **options), CHATS, load_tokenizer(BASE))
    assert counts["truncated"] > 0
    assert all(row["labels"] == row["input_ids"] for row in rows)
    assert max(len(row["input_ids"]) for row in rows) == 300


def test_no_row_left_is_an_error_that_says_what_to_raise(place):
    with pytest.raises(UserError, match="sft.max_length=8"):
        supervised_rows(section(max_length=8), BOTH, load_tokenizer(BASE))


def test_pairs_that_are_too_long_are_counted(place):
    tokenizer = load_tokenizer(BASE)
    path = PREFERENCES / "train.jsonl"
    everything, none = preference_rows("dpo", {path: 1.0}, tokenizer, 100_000)
    kept, dropped = preference_rows("dpo", {path: 1.0}, tokenizer, 100)
    assert none == {"too_long": 0, "beyond_share": 0}
    assert dropped["too_long"] > 0
    assert len(kept) + dropped["too_long"] == len(everything)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert all(pair[side][-1] == stop for pair in kept for side in ("chosen_ids", "rejected_ids"))
    with pytest.raises(UserError, match="dpo.max_length=10"):
        preference_rows("dpo", {path: 1.0}, tokenizer, 10)


def test_a_share_of_the_pairs_is_the_same_pairs_however_many_there_are(place):
    tokenizer = load_tokenizer(BASE)
    path = PREFERENCES / "train.jsonl"
    everything, _ = preference_rows("dpo", {path: 1.0}, tokenizer, 100_000)
    half, dropped = preference_rows("dpo", {path: 0.5}, tokenizer, 100_000)
    assert len(half) + dropped["beyond_share"] == len(everything)
    assert 0 < len(half) < len(everything)
    fewer = path.with_name("fewer.jsonl")
    fewer.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[::2]), encoding="utf-8")
    some, _ = preference_rows("dpo", {fewer: 0.5}, tokenizer, 100_000)
    assert some and all(pair in half for pair in some)
    with pytest.raises(UserError, match=r"beyond dpo\.prepared_share; raise it"):
        preference_rows("dpo", {path: 0.0}, tokenizer, 100_000)


def test_all_votes_are_trained_on_whatever_the_share_of_the_pairs(place):
    tokenizer = load_tokenizer(BASE)
    everything = list(read_jsonl(PREFERENCES / "train.jsonl"))
    path = PREFERENCES / "with_votes.jsonl"
    write_jsonl(path, [pair | {"source": "votes"} if number < 5 else pair for number, pair in enumerate(everything)])
    kept, dropped = preference_rows("dpo", {path: 0.0}, tokenizer, 100_000)
    assert len(kept) == 5
    assert dropped == {"too_long": 0, "beyond_share": len(everything) - 5}


def raw(directory, *texts):
    path = directory / "text.jsonl"
    write_jsonl(path, [{"id": f"a#{number}", "text": text} for number, text in enumerate(texts)])
    return path


def test_raw_text_is_learned_whole_without_template_and_stop_token(place):
    tokenizer = load_tokenizer(BASE)
    path = raw(place, "달여울시민청은 강가에 있습니다.")
    rows, counts = supervised_rows(section(), {path: 2}, tokenizer)
    assert counts == {"cut_turns": 0, "truncated": 0, "dropped_too_long": 0}
    assert len(rows) == 2 and rows[0] == rows[1] and rows[0]["raw"]
    assert tokenizer.decode(rows[0]["input_ids"]) == "달여울시민청은 강가에 있습니다."
    assert rows[0]["labels"] == [IGNORED, *rows[0]["input_ids"][1:]]


def test_raw_text_that_is_too_long_is_split_into_rows_of_like_length_and_nothing_is_lost(place):
    tokenizer = load_tokenizer(BASE)
    text = "달여울시민청은 강가에 있습니다. " * 9
    rows, counts = supervised_rows(section(max_length=50), {raw(place, text, "짧은 글입니다."): 1}, tokenizer)
    assert counts["text_cut"] == 1
    lengths = [len(row["input_ids"]) for row in rows[:-1]]
    assert max(lengths) <= 50 and max(lengths) - min(lengths) <= 1
    assert tokenizer.decode([token for row in rows[:-1] for token in row["input_ids"]]) == text


def test_raw_text_begins_with_the_token_that_the_tokenizer_puts_before_any_text(place):
    """Llama and Gemma are lost without their BOS; each row of a truncated text has it."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer(BASE)
    tokenizer.bos_token = begin = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A <|im_end|>",
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in (begin, "<|im_end|>")],
    )
    assert tokenizer("글")["input_ids"][-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    rows, _ = supervised_rows(
        section(max_length=30), {raw(place, "달여울시민청은 강가에 있습니다. " * 9): 1}, tokenizer
    )
    assert len(rows) > 2
    for row in rows:
        assert row["input_ids"].count(tokenizer.bos_token_id) == 1 and row["input_ids"][0] == tokenizer.bos_token_id
        assert len(row["input_ids"]) <= 30 and tokenizer.eos_token_id not in row["labels"]
