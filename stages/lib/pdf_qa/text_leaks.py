"""Whether a paragraph of raw text states what evaluation asks of facts that training must not see.

It does if it stands where the answer was taken from, if it and the answer share most of their wording, or if it holds
all keys of the fact. The same fact in other words, or a short answer elsewhere (17:00), isn't recognised.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from stages.lib.data.comparison import letters

SHINGLE = 12
"""Letters of a run by which an answer is found in a text."""
SHARED = 0.6
"""Share of an answer's runs, or of a paragraph's, that the other holds, from which on one says the other."""
SHORTEST_KEY = 6
"""Letters that a fact's keys have together, if a paragraph that holds them all states the fact."""


class HeldOutFacts:
    """The answers to held-out questions, and where in PDFs they stand.

    `records` are rows of an evaluation split: {"id", "messages", "key", "source": {"sha256", "page", "span"}}.
    """

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        self.spans: dict[tuple[str, int], list[tuple[int, int, str]]] = defaultdict(list)
        self.answers: dict[str, list[int]] = defaultdict(list)  # by run of letters
        self.ids: list[str] = []
        self.runs: list[int] = []  # of each answer
        self.keys: list[tuple[list[str], str]] = []
        for record in records:
            self.add(record)

    def add(self, record: dict[str, Any]) -> None:
        """Remember one row of evaluation."""
        source, name = record["source"], record["id"]
        if {"sha256", "page", "span"} <= set(source):
            start, stop = source["span"]
            self.spans[source["sha256"], source["page"]].append((start, stop, name))
        runs = runs_of(letters(record["messages"][-1]["content"]))
        for run in runs:
            self.answers[run].append(len(self.ids))
        self.ids.append(name)
        self.runs.append(len(runs))
        keys = [key for key in map(letters, record["key"]) if key]
        if sum(map(len, keys)) >= SHORTEST_KEY:
            self.keys.append((keys, name))

    def stated_by(self, text: str, sha256: str, page: int, start: int, stop: int) -> str:
        """The id of a row that a paragraph answers, or an empty text; its place is a PDF's, or `sha256` is empty."""
        for first, last, name in self.spans.get((sha256, page), []) if sha256 else []:
            if start < last and first < stop:
                return name
        said = letters(text)
        runs = runs_of(said)
        shared = Counter(number for run in runs for number in self.answers.get(run, ()))
        for number, count in shared.items():
            if count >= SHARED * min(len(runs), self.runs[number]):
                return self.ids[number]
        return next((name for keys, name in self.keys if all(key in said for key in keys)), "")


def runs_of(said: str) -> set[str]:
    """All runs of SHINGLE letters; none of a shorter text, which may stand anywhere."""
    return {said[start : start + SHINGLE] for start in range(len(said) - SHINGLE + 1)}
