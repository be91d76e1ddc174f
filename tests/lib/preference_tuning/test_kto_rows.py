"""KTO's rows: shuffled, no prompt twice in a pass, another prompt's answer for the KL, nothing lost."""

import random

import pytest
from conftest import tiny_training

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import write_jsonl
from stages.lib.models.loading import load_tokenizer
from stages.lib.preference_tuning.kto_rows import (
    KtoRow,
    in_passes,
    kto_rows,
    rows_of_a_pass,
    unbalanced,
    with_answers_for_kl,
)
from stages.lib.schema.choices import Algorithm
from stages.lib.schema.training import Preference


def section(**changes: object) -> Preference:
    return Preference(**tiny_training(enabled=True, algorithm=Algorithm.kto, **changes))


def row(prompt: int, answer: int, label: bool = True) -> KtoRow:
    return {"prompt_ids": [prompt, 0], "completion_ids": [answer, 9], "KL_completion_ids": [], "label": label}


def paired(prompts: int) -> list[KtoRow]:
    """All better answers first, as trl's unpairing has them."""
    return [row(prompt, 2 * prompt + worse, not worse) for worse in (0, 1) for prompt in range(prompts)]


def passes(rows: list[KtoRow], size: int) -> list[list[KtoRow]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@pytest.mark.parametrize("size", [2, 3, 4, 8])
@pytest.mark.parametrize("prompts", [8, 9, 50, 201])
def test_no_pass_has_a_prompt_twice_and_no_row_is_lost(prompts, size):
    rows = paired(prompts)
    arranged = in_passes(rows, size, seed=1)
    assert sorted(map(str, arranged)) == sorted(map(str, rows))
    for each in passes(arranged, size):
        assert len({tuple(row["prompt_ids"]) for row in each}) == len(each)


def test_better_and_worse_answers_are_mixed():
    arranged = in_passes(paired(200), 4, seed=1)
    mixed = [each for each in passes(arranged, 4) if 0 < sum(row["label"] for row in each) < 4]
    assert len(mixed) > 70  # of 100; 88 are expected of a fair shuffle, none of trl's order
    assert 40 < sum(row["label"] for row in arranged[:100]) < 60


def test_the_order_follows_the_seed_alone():
    rows = paired(30)
    assert in_passes(rows, 4, seed=1) == in_passes(list(rows), 4, seed=1) != in_passes(rows, 4, seed=2)


def test_a_prompt_with_more_answers_than_passes_is_refused():
    rows = [*(row(1, answer) for answer in range(5)), *(row(prompt, 0) for prompt in range(2, 13))]
    random.Random(0).shuffle(rows)
    with pytest.raises(UserError, match="one prompt has 5 answers, but 16 answers make 4 passes of 4"):
        in_passes(rows, 4, seed=1)
    in_passes(rows, 2, seed=1)


@pytest.mark.parametrize("count", [16, 15, 13])
def test_each_row_has_another_prompts_answer_of_its_own_pass(count):
    arranged = with_answers_for_kl(in_passes(paired(8)[:count], 4, seed=1), section())
    for each in passes(arranged, 4):
        own = [row["completion_ids"] for row in each]
        if len(each) > 1:  # as trl rotates them
            assert [row["KL_completion_ids"] for row in each] == [own[-1], *own[:-1]]
        else:
            assert each[0]["KL_completion_ids"] not in own
            assert each[0]["KL_completion_ids"][0] // 2 != each[0]["prompt_ids"][0]


def test_answers_to_one_prompt_alone_are_refused():
    with pytest.raises(UserError, match="answers to one prompt alone"):
        with_answers_for_kl([row(1, 1)], section())


def test_an_answer_behind_a_longer_prompt_keeps_to_max_length():
    long, short = row(1, 1), row(2, 2)
    long["prompt_ids"] = [1] * 7
    arranged = with_answers_for_kl([long, short], section(max_length=8))
    assert [len(row["KL_completion_ids"]) for row in arranged] == [1, 2]


@pytest.mark.parametrize(("size", "processes"), [(4, 3), (4, 4), (6, 4)])
def test_a_pass_of_one_row_or_of_uneven_shares_is_refused(size, processes):
    with pytest.raises(UserError, match=f"kl_batch_size: found {size} for {processes} processes"):
        rows_of_a_pass(section(kl_batch_size=size, batch_size=12), processes)


def test_processes_share_the_rows_of_a_pass():
    assert [rows_of_a_pass(section(kl_batch_size=4), processes) for processes in (1, 2)] == [4, 2]


def test_pairs_and_votes_are_read_and_long_ones_counted(tiny_base, tmp_path):
    pair = {"prompt": [{"role": "user", "content": "언제 여나요?"}], "chosen": "아홉 시.", "rejected": "몰라요. " * 50}
    vote = {"prompt": [{"role": "user", "content": "어디인가요?"}], "completion": "삼 층.", "label": False}
    write_jsonl(tmp_path / "train.jsonl", [pair])
    write_jsonl(tmp_path / "unpaired.jsonl", [vote])
    asked = (tmp_path / "train.jsonl", tmp_path / "unpaired.jsonl", load_tokenizer(tiny_base))
    found = kto_rows(section(max_length=60), *asked)
    assert found.counts() == {"desirable": 1, "undesirable": 1, "without_partner": 1, "too_long": 1}
    stop = asked[-1].convert_tokens_to_ids("<|im_end|>")
    assert all(row["completion_ids"][-1] == stop for row in found.rows)
    with pytest.raises(UserError, match="no answer is left: 3 are longer than preference.max_length=4 tokens"):
        kto_rows(
            section(max_length=4), tmp_path / "train.jsonl", tmp_path / "unpaired.jsonl", load_tokenizer(tiny_base)
        )


def test_weights_that_would_balance_the_kinds_are_named():
    counts = {"desirable": 10, "undesirable": 40}
    assert "preference.desirable_weight=4 would do it" in unbalanced(section(), counts)
    assert unbalanced(section(desirable_weight=4.0), counts) == ""
    assert unbalanced(section(), {"desirable": 40, "undesirable": 40}) == ""
