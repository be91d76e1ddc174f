"""A data card shows names from outside, of files, columns and reasons, and none of them is markup."""

import re

from stages.lib.data.data_report import data_card
from stages.lib.data.ledger import Ledger

PLANTED = "<script>a</script> [b](http://evil.example) | c"


def test_names_from_outside_are_no_markup(tmp_path):
    report = {
        "in": 3, "kept": 2, "dropped": {PLANTED: 1}, "fixed": {}, "reported": {PLANTED: 1},
        "sources": [{"name": PLANTED, "rows": 3, "version": "3f0c", "read_as": f"{PLANTED} as `question`"}],
        "splits": {"train": {"rows": 2}},
    }  # fmt: skip
    with Ledger(tmp_path, {"read": (PLANTED,)}) as ledger:
        card = data_card("Rows", report, ledger, {128: 2}, [f"{PLANTED} was not read"])
    assert card.count("evil.example") >= 5
    assert not re.search(r"(?<!\\)<|(?<!\\)\[|http://", card)
    assert "as `question`." in card
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in card.splitlines() if line.startswith("| ")} == {3, 4}
