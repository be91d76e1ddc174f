"""Questions and answers from your PDFs, split by fact.

Reads   JSON Lines of instruction and output, with fact_id and key where known
Writes  data/prepared/pdf_qa: train.jsonl, seen.jsonl (trained facts, unseen wording), unseen.jsonl (held-out facts),
        report.json
Run     python -m stages.prepare_pdf_qa
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

from stages.lib.entry import run
from stages.lib.errors import UserError
from stages.lib.publish import published
from stages.lib.records import normalised, read_jsonl, share_of, write_json, write_jsonl
from stages.lib.schema import PreparePdfQa

SOURCE = Path("data/raw/pdf_qa")
OUT = Path("data/prepared/pdf_qa")


def prepare_pdf_qa(section: PreparePdfQa, root: Path) -> dict[str, Any]:
    rows = [row for file in section.files for row in read_questions(Path(file))]
    splits = split_by_fact(rows, section.held_out_facts, section.held_out_wordings)
    refuse_overlap(splits)
    report = {name: {"rows": len(part), "facts": len({r["fact_id"] for r in part})} for name, part in splits.items()}
    with published(root / OUT) as out:
        out.mkdir()
        for name, part in splits.items():
            write_jsonl(out / f"{name}.jsonl", part)
        write_json(out / "report.json", report)
    return report


def read_questions(path: Path) -> list[dict[str, Any]]:
    """Read one file of Q&A as records of id, fact_id, messages, key, answerable.

    A row without fact_id is its own fact. Raises UserError naming file and line for a missing or blank field.
    """
    records = []
    for number, row in enumerate(read_jsonl(path), start=1):
        for name in ("instruction", "output"):
            if not isinstance(row.get(name), str) or not row[name].strip():
                raise UserError(f"{path}:{number}: found keys {sorted(row)}, needed a text in {name!r}")
        question, answer = row["instruction"].strip(), row["output"].strip()
        identity = str(row.get("id", f"{path.name}:{number}"))
        records.append(
            {
                "id": identity,
                "fact_id": str(row.get("fact_id", identity)),
                "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
                "key": list(row.get("key") or []),
                "answerable": bool(row.get("answerable", True)),
            }
        )
    return records


def split_by_fact(rows: list[dict[str, Any]], held_out_facts: float, held_out_wordings: int) -> dict[str, list[Any]]:
    """Split rows into train, seen and unseen by hashes of fact and question, so that added rows move no others.

    A trained fact keeps at least one wording for training.
    """
    facts = defaultdict(list)
    for row in rows:
        facts[row["fact_id"]].append(row)
    splits: dict[str, list[Any]] = {"train": [], "seen": [], "unseen": []}
    for fact_id, wordings in facts.items():
        if share_of(fact_id) < held_out_facts:
            splits["unseen"] += wordings
            continue
        wordings.sort(key=lambda row: share_of(row["messages"][0]["content"]))
        held_out = min(held_out_wordings, len(wordings) - 1)
        splits["seen"] += wordings[:held_out]
        splits["train"] += wordings[held_out:]
    return splits


def refuse_overlap(splits: dict[str, list[Any]]) -> None:
    """Raise UserError naming evaluation questions that training has too, however spaced or punctuated."""
    trained = {normalised(row["messages"][0]["content"]): row["id"] for row in splits["train"]}
    pairs = [
        f"{row['id']} = {trained[question]}"
        for name in ("seen", "unseen")
        for row in splits[name]
        if (question := normalised(row["messages"][0]["content"])) in trained
    ]
    if pairs:
        raise UserError(
            f"{len(pairs)} evaluation questions are trained on: {', '.join(pairs[:5])}. "
            "Remove the doubles or give them one fact_id"
        )


if __name__ == "__main__":
    run(prepare_pdf_qa)
