"""The account doesn't balance by itself: a lost row or an unknown reason is an error, never a silence."""

from pathlib import Path

import pytest

from stages.lib.data.data_report import token_histogram
from stages.lib.data.jsonl_reader import Rejected
from stages.lib.data.ledger import Ledger
from stages.lib.every_stage.errors import UserError

STEPS = {"readable": ("invalid_json",), "unique": ("duplicate",)}


def reject(reason: str) -> Rejected:
    return Rejected("rows.jsonl:1", reason, "why", "text")


def test_a_lost_row_is_an_error(tmp_path: Path) -> None:
    with Ledger(tmp_path, STEPS) as ledger:
        ledger.read = 3
        ledger.reject(reject("duplicate"))
        assert ledger.balance(kept=2)["dropped"] == {"duplicate": 1}
        with pytest.raises(ArithmeticError, match="read 3 rows, kept 1 and dropped 1"):
            ledger.balance(kept=1)


def test_a_reason_of_no_step_is_an_error(tmp_path: Path) -> None:
    with Ledger(tmp_path, STEPS) as ledger, pytest.raises(KeyError, match="unheard_of"):
        ledger.reject(reject("unheard_of"))


def test_the_funnel_ends_with_what_is_kept(tmp_path: Path) -> None:
    with Ledger(tmp_path, STEPS) as ledger:
        ledger.read = 10
        for reason in ("invalid_json", "duplicate", "duplicate"):
            ledger.reject(reject(reason))
        assert ledger.funnel() == [("read", 10), ("readable", 9), ("unique", 7)]


def test_only_the_named_reasons_count_against_the_rate(tmp_path: Path) -> None:
    with Ledger(tmp_path, STEPS) as ledger:
        ledger.read = 10
        for reason in ("invalid_json", "duplicate", "duplicate"):
            ledger.reject(reject(reason))
        ledger.refuse_many(["invalid_json"], 0.1, "x.max_reject_rate")
        with pytest.raises(UserError, match=r"3 of 10 rows are rejected, more than x.max_reject_rate = 0.1 allows"):
            ledger.refuse_many(["invalid_json", "duplicate"], 0.1, "x.max_reject_rate")


def test_every_length_is_in_the_histogram() -> None:
    lengths = [1, 32, 33, 512, 513, 9000]
    histogram = token_histogram(lengths, 512)
    assert sum(histogram.values()) == len(lengths)
    assert histogram[32] == 2 and histogram[64] == 1 and histogram[512] == 1 and histogram[544] == 2
