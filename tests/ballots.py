"""Votes as the arena writes them."""

from typing import Any

BASE, DPO = "b" * 64, "d" * 64
"""Weights."""


def vote(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A line of votes.jsonl: dpo's answer on the left is preferred to base's."""
    row = {
        "id": f"v{number}", "fact_id": f"f{number}", "first": "dpo", "second": "base", "verdict": "first",
        "by": "person", "question": f"{number}번 창구는 어디인가요?", "first_answer": f"{number}층입니다.",
        "second_answer": "I like windows.", "first_stopped": True, "second_stopped": False,
        "first_weights_sha256": DPO, "second_weights_sha256": BASE, "temperature": 0.7, "top_p": 0.9,
        "max_new_tokens": 256, "time": "2026-11-22T03:41:07Z",
    } | changes  # fmt: skip
    lengths = {f"{side}_characters": len(row[f"{side}_answer"]) for side in ("first", "second")}
    return lengths | row
