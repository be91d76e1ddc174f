"""Pairs of a better and a worse answer for DPO, held-out pairs that score it, and single answers for KTO.

Reads   Orca pairs from the hub, or a file in their schema (system, input, chosen, rejected, status, chosen_score, …);
        people's votes in data/raw/votes, on two answers or on one, where there are any; data/prepared/pdf_qa, whose
        evaluation questions no pair may ask; models/base's tokenizer and chat template
Writes  data/prepared/preferences: train.jsonl, evaluation.jsonl, unpaired.jsonl, rejects.jsonl, data_report.json,
        DATA_CARD.md; metrics/data_preferences*
Run     python -m stages.prepare_preferences
"""

from array import array
from itertools import chain
from pathlib import Path
from typing import Any

from stages.lib.data.columns import Reading, named_columns
from stages.lib.data.comparison import letters
from stages.lib.data.data_report import data_card, headline, token_histogram, write_reports
from stages.lib.data.ledger import Ledger
from stages.lib.data.rendered_rows import RowRenderer
from stages.lib.data.rows import name, version
from stages.lib.every_stage.entry import run
from stages.lib.every_stage.lineage import file_sha256
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import share_of, write_jsonl
from stages.lib.preferences.evaluation_sets import evaluation_questions, refuse_leaks
from stages.lib.preferences.preference_pairs import DEFECTIVE, FILTERED, USUAL, accounted, sound_pairs
from stages.lib.preferences.unpaired_votes import FILE as UNPAIRED_FILE
from stages.lib.preferences.unpaired_votes import UNUSED_ALONE, judged_alone, read_unpaired
from stages.lib.preferences.voted_pairs import UNUSED, voted_pairs
from stages.lib.preferences.votes import FILE as VOTES_FILE
from stages.lib.preferences.votes import read_votes
from stages.lib.schema.choices import PairSource
from stages.lib.schema.data import PreparePreferences

SOURCE = Path("data/raw/preferences")
VOTES = Path("data/raw/votes")
PDF_QA = Path("data/prepared/pdf_qa")
BASE = Path("models/base")
OUT = Path("data/prepared/preferences")
METRIC = Path("metrics/data_preferences.json")
FUNNEL = Path("metrics/data_preferences_funnel.csv")
TOKENS = Path("metrics/data_preferences_tokens.csv")

CAVEATS = [
    "Lengths are those of the prompt and the longer answer; DPO drops pairs beyond its max_length and counts them.",
    "unpaired are votes on one answer: KTO alone learns from them (preference.algorithm=kto).",
]
STEPS = {
    "chosen by the filter": (*FILTERED, *UNUSED, *UNUSED_ALONE),
    "sound": DEFECTIVE,
    "no duplicates": ("duplicate_prompt", "duplicate_vote"),
}


def prepare_preferences(section: PreparePreferences, root: Path) -> dict[str, Any]:
    renderer, asked = RowRenderer(BASE, section.system_messages), evaluation_questions(PDF_QA)
    lengths, leaks = array("I"), []
    reading = Reading(named_columns(section.rows.columns), "prepare_preferences.rows.columns")
    with published(root / OUT) as out:
        out.mkdir()
        with Ledger(out, STEPS) as ledger:
            splits: dict[str, list[dict[str, Any]]] = {"train": [], "evaluation": [], "unpaired": []}
            votes = read_votes(VOTES) if PairSource.votes in section.sources else []
            alone = read_unpaired(VOTES) if PairSource.votes in section.sources else []
            held_out_questions: set[str] = set()
            pairs = chain(sound_pairs(section, reading, ledger), accounted(voted_pairs(votes, asked), ledger))
            for rendered in renderer.rendered(pairs, ledger):
                pair = rendered.row
                pair.prompt = rendered.conversations[0][:-1]
                if known := asked.find(pair.question):
                    leaks.append(f"{pair.where} ({pair.question[:60]}) = {known}")
                # by the question alone: asked under two system messages it stays on one side
                held_out = share_of(letters(pair.question)) < section.held_out_pairs
                held_out_questions |= {letters(pair.question)} if held_out else set()
                splits["evaluation" if held_out else "train"].append(pair.record())
                lengths.append(max(rendered.tokens))
                ledger.fixed.update(pair.fixed)
            refuse_leaks(leaks, "pairs")
            single = accounted(judged_alone(alone, asked, held_out_questions), ledger)
            for answer in renderer.rendered(single, ledger):
                answer.row.prompt = answer.conversations[0][:-1]
                splits["unpaired"].append(answer.row.record())
                lengths.append(max(answer.tokens))
                ledger.fixed.update(answer.row.fixed)
            ledger.refuse_many(DEFECTIVE, section.max_reject_rate, "prepare_preferences.max_reject_rate")
            counts = {split: {"rows": write_jsonl(out / f"{split}.jsonl", part)} for split, part in splits.items()}
            ledger.refuse_nothing_left(
                counts["train"]["rows"], "Add pairs, or lower prepare_preferences.min_chosen_score"
            )
            balance = ledger.balance(sum(part["rows"] for part in counts.values()))
            report = {
                **balance,
                "splits": counts,
                "sources": sources(section, reading, ledger.read, len(votes), len(alone)),
            }
            histogram = token_histogram(lengths, 0)
            card = data_card("Preference pairs", report, ledger, histogram, CAVEATS)
            write_reports(out, (root / METRIC, root / FUNNEL, root / TOKENS), report, ledger, histogram, card)
    print(headline(OUT, report))
    return {"in": report["in"], "kept": report["kept"], "splits": counts}


def sources(section: PreparePreferences, reading: Reading, read: int, votes: int, alone: int) -> list[dict[str, Any]]:
    """Where the rows come from, for the report: name, rows and what pins them."""
    found = []
    if PairSource.rows in section.sources:
        found.append({"name": name(section.rows), "rows": read - votes - alone, "version": version(section.rows),
                      "read_as": reading.summary(USUAL)})  # fmt: skip
    if votes:
        found.append({"name": VOTES_FILE, "rows": votes, "version": file_sha256(VOTES / VOTES_FILE)})
    if alone:
        found.append({"name": UNPAIRED_FILE, "rows": alone, "version": file_sha256(VOTES / UNPAIRED_FILE)})
    return found


if __name__ == "__main__":
    run(prepare_preferences)
