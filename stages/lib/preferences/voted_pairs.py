"""Preference pairs from people's votes, for DPO."""

from collections import defaultdict
from collections.abc import Iterator

from stages.lib.data.jsonl_reader import Line, Rejected, as_text
from stages.lib.data.near_duplicates import KnownQuestions
from stages.lib.preferences.preference_pairs import Pair, admit_pair
from stages.lib.preferences.votes import Vote

UNDECIDED = {"tie": "vote_tie", "both_bad": "vote_both_bad"}
UNUSED = (*UNDECIDED.values(), "vote_conflicting", "vote_for_cut_answer", "vote_on_evaluation_question", "vote_unfit")
"""Why a vote makes no pair."""


def voted_pairs(votes: list[Vote | Rejected], asked: KnownQuestions) -> Iterator[Pair | Rejected]:
    """Yield a preference pair for each vote that prefers one answer, and a reject for each other vote.

    People who contradict each other on the same two answers teach nothing; who agree teach it once. A truncated answer
    that was preferred would be learned with a stop token in the middle of a sentence. Whoever votes can't know what
    is asked in the evaluation, so such votes are left out rather than refused.
    """
    preferred = defaultdict(set)
    for vote in votes:
        if isinstance(vote, Vote) and vote.better:
            preferred[vote.of()].add(vote.better)
    seen = set()
    for vote in votes:
        if isinstance(vote, Rejected):
            yield vote
            continue
        reason, detail = unused(vote, preferred[vote.of()], asked)
        if not reason and vote.of() in seen:
            reason, detail = "duplicate_vote", "the same vote stands above"
        if reason:
            yield Rejected(vote.where, reason, detail, as_text(vote.model_dump()))
            continue
        seen.add(vote.of())
        columns = {"input": vote.question, "chosen": vote.better, "rejected": vote.worse}
        pair = admit_pair(Line(vote.where, columns), min_chosen_score=0.0)
        if isinstance(pair, Rejected):
            yield Rejected(vote.where, "vote_unfit", f"{pair.reason}: {pair.detail}", pair.text)
        else:
            pair.vote = vote.id
            yield pair


def unused(vote: Vote, preferred: set[str], asked: KnownQuestions) -> tuple[str, str]:
    """Why a vote makes no pair, as reason and detail, or empty texts."""
    if vote.verdict in UNDECIDED:
        return UNDECIDED[vote.verdict], "no answer was preferred"
    if len(preferred) > 1:
        return "vote_conflicting", "other votes on the same two answers prefer the other one"
    if known := asked.find(vote.question):
        return "vote_on_evaluation_question", f"{vote.question[:60]} = {known}"
    if not (vote.first_stopped if vote.verdict == "first" else vote.second_stopped):
        return "vote_for_cut_answer", f"truncated at {vote.max_new_tokens} tokens; allow more in the arena"
    return "", ""
