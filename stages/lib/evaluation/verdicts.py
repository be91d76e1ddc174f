"""A judge's verdicts on pairs of answers, each asked in both orders, and what they are worth.

{"id": "address-1", "fact_id": "address", "first": "dpo", "second": "base", "verdict": "first", "by": "openai:name"}

verdict is first, second, tie or unreadable. People's votes have the same shape.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypedDict

from stages.lib.evaluation.scored_rows import ScoredRow
from stages.lib.evaluation.statistics import bootstrap_interval, wilson_interval
from stages.lib.family import NAMES
from stages.lib.preferences.votes import Vote


class Verdict(TypedDict):
    """One comparison of two models' answers to a question, as verdicts.jsonl has it."""

    id: str
    fact_id: str
    first: str  # models
    second: str
    first_characters: int  # of their answers
    second_characters: int
    verdict: str  # first, second, tie, both_bad or unreadable
    by: str


PROMPT = """\
You compare two answers to one question. Say which is better: right by the reference if there is one, to the point,
and in the question's language. The order in which they stand and their length mean nothing.
End with exactly one of [[A]], [[B]] or [[C]] (C: equally good or bad).

Question:
{question}

Reference:
{reference}

Answer A:
{first}

Answer B:
{second}
"""
MARK = re.compile(r"\[\[([ABC])\]\]")
VERDICTS = {"A": "first", "B": "second", "C": "tie"}
IDENTICAL = "identical"
"""Who gave a verdict that nobody was asked for."""
LIKE_LENGTH = 1.25
"""Two answers are of like length if the longer has at most so many times the shorter's characters."""
BIASED = 0.7
"""A share from which on a judge's leaning to a position or to length is reported; 0.5 is none."""


def ask_both_orders(
    pair: tuple[str, str], left: ScoredRow, right: ScoredRow, ask: Callable[[str], str], by: str
) -> list[Verdict]:
    """Two verdicts on one question: each answer stands first once. `left` and `right` are rows of predictions.jsonl.

    Equal answers are a tie without asking.
    """
    verdicts: list[Verdict] = []
    equal = left["prediction"] == right["prediction"]
    for first, second, names in ((left, right, pair), (right, left, pair[::-1])):
        prompt = PROMPT.format(
            question=left["prompt"],
            reference=left["reference"],
            first=first["prediction"],
            second=second["prediction"],
        )
        verdicts.append(
            {
                "id": left["id"],
                "fact_id": left["fact_id"],
                "first": names[0],
                "second": names[1],
                "first_characters": len(first["prediction"]),
                "second_characters": len(second["prediction"]),
                "verdict": "tie" if equal else read_verdict(ask(prompt)),
                "by": IDENTICAL if equal else by,
            }
        )
    return verdicts


def read_verdict(response: str) -> str:
    """What a response ends on; a response with no mark, or marks that contradict each other, is unreadable."""
    marks = MARK.findall(response)
    return VERDICTS[marks[-1]] if marks and len(set(marks)) == 1 else "unreadable"


def judged(pair: tuple[str, str], verdicts: list[Verdict], resamples: int, seed: int) -> dict[str, Any]:
    """Figures of one pair of models: does the first of them win?

    A win needs both orders; verdicts that contradict each other are a tie and counted as inconsistent; a question
    with an unreadable verdict counts for parse_error_rate alone.
    """
    questions: dict[str, list[Verdict]] = {}
    for row in verdicts:
        if {row["first"], row["second"]} == set(pair):
            questions.setdefault(row["id"], []).append(row)
    asked = [row for rows in questions.values() for row in rows if row["by"] != IDENTICAL]
    readable = {name: rows for name, rows in questions.items() if all(r["verdict"] != "unreadable" for r in rows)}
    preferred = {name: [winner(row) for row in rows] for name, rows in readable.items()}
    points = {name: outcome(pair, names) for name, names in preferred.items()}
    like_length = {name: point for name, point in points.items() if of_like_length(readable[name][0])}
    decisive = [row for row in asked if row["verdict"] in ("first", "second")]
    uneven = [row for row in decisive if row["first_characters"] != row["second_characters"]]
    facts = {name: rows[0]["fact_id"] for name, rows in questions.items()}

    def mean(values: list[float], names: list[str]) -> dict[str, float] | None:
        """The mean of what was found for questions of these names, drawn by fact; None of none."""
        groups = [facts[name] for name in names]
        return bootstrap_interval(values, [1.0] * len(values), groups, resamples, seed) if values else None

    def rate(points: dict[str, float]) -> dict[str, float] | None:
        """Wins and half the ties."""
        return mean(list(points.values()), list(points))

    def share(rows: list[Verdict], held: Callable[[Verdict], bool]) -> dict[str, float] | None:
        """The share of verdicts for which something held; None of none."""
        return wilson_interval([float(held(row)) for row in rows], [facts[row["id"]] for row in rows]) if rows else None

    return {
        "win": sum(point == 1 for point in points.values()),
        "tie": sum(point == 0.5 for point in points.values()),
        "loss": sum(point == 0 for point in points.values()),
        "win_rate": rate(points),
        "win_rate_like_length": rate(like_length),
        "inconsistent_rate": rate(
            {
                name: float(len(set(preferred[name])) > 1)
                for name, rows in readable.items()
                if rows[0]["by"] != IDENTICAL
            }
        ),
        "first_position_rate": share(decisive, lambda row: row["verdict"] == "first"),
        "longer_preferred_rate": share(uneven, lambda row: winner(row) == longer(row)),
        "parse_error_rate": share(asked, lambda row: row["verdict"] == "unreadable"),
        "questions": len(questions),
        "identical": sum(rows[0]["by"] == IDENTICAL for rows in questions.values()),
    }


def winner(row: Verdict) -> str:
    """The model that a verdict prefers, or "tie"."""
    return {"first": row["first"], "second": row["second"]}.get(row["verdict"], row["verdict"])


def longer(row: Verdict) -> str:
    """The model whose answer has more characters."""
    return row["first"] if row["first_characters"] > row["second_characters"] else row["second"]


def outcome(pair: tuple[str, str], names: list[str]) -> float:
    """1.0 if every verdict prefers the first of the pair, 0.0 if every one prefers the second, else 0.5."""
    return 1.0 if set(names) == {pair[0]} else 0.0 if set(names) == {pair[1]} else 0.5


def of_like_length(row: Verdict) -> bool:
    """Whether neither answer is much longer than the other."""
    short, long = sorted([row["first_characters"], row["second_characters"]])
    return long <= LIKE_LENGTH * short


def warnings_of(pair: tuple[str, str], figures: dict[str, Any]) -> list[str]:
    """Why a judge's figures may say more about the judge than about the models."""
    name, lines = ":".join(pair), []
    first, longer_rate, inconsistent, unreadable = (
        (figures[f"{rate}_rate"] or {}).get("value")
        for rate in ("first_position", "longer_preferred", "inconsistent", "parse_error")
    )
    if first is not None and not 1 - BIASED <= first <= BIASED:
        lines.append(
            f"judge, {name}: prefers the {'first' if first > 0.5 else 'second'} answer in "
            f"{max(first, 1 - first):.0%} of its decisions, whichever it is"
        )
    if inconsistent is not None and inconsistent > 0.3:
        lines.append(f"judge, {name}: contradicts itself on {inconsistent:.0%} when the order changes")
    overall, like_length = figures["win_rate"], figures["win_rate_like_length"]
    if (
        longer_rate is not None
        and longer_rate > BIASED
        and not (like_length and abs(like_length["value"] - overall["value"]) <= 0.1)
    ):
        among = f"{like_length['value']:.2f} (n {like_length['n']})" if like_length else "unknown: there are none"
        lines.append(
            f"judge, {name}: prefers the longer answer in {longer_rate:.0%} of its decisions; win rate "
            f"{overall['value']:.2f}, among answers of like length {among}"
        )
    if unreadable:
        lines.append(f"judge, {name}: {unreadable:.0%} of its answers hold no verdict")
    return lines


def by_models(votes: Iterable[Vote], current: set[str]) -> dict[tuple[str, str], list[Verdict]]:
    """Votes as a judge's verdicts, by the pair of models they compare.

    A name is no version: models whose weights are not among `current` are told apart by them, as in dpo@13eb9e7. Of a
    pair the one that was tuned further is first.
    """
    order = NAMES[::-1]
    pairs: dict[tuple[str, str], list[Verdict]] = {}
    for vote in votes:
        row: Any = vote.model_dump()
        for side in ("first", "second"):
            digest = row[f"{side}_weights_sha256"]
            if digest not in current:
                row[side] = f"{row[side]}@{digest[:7]}"
        one, other = sorted((row["first"], row["second"]), key=lambda name: (order.index(name.split("@")[0]), name))
        pairs.setdefault((one, other), []).append(row)
    return dict(sorted(pairs.items()))
