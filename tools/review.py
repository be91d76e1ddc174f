"""Look at questions and answers one by one: accept, reject or edit them.

Reads   FILE, JSON Lines of Q&A as prepare-pdf-qa writes or reads them
Writes  OUT: the accepted and edited rows in the form that data/raw/pdf_qa takes; OUT.decisions, one line a decision as
        it is made, so that a review can be broken off and taken up again
Run     python -m tools.review data/prepared/pdf_qa/train.jsonl data/raw/pdf_qa/own/reviewed.jsonl [--only rules]
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stages.lib.entry import exit_on_user_error
from stages.lib.errors import UserError
from stages.lib.foreign_text import shown
from stages.lib.pdf_qa.qa_files import DECISIONS
from stages.lib.publish import published
from stages.lib.records import read_jsonl, write_jsonl

HELP = "a accept, r reject, e edit, s skip for now, q stop"


def review(
    rows: list[dict[str, Any]], out: Path, ask: Callable[[str], str], say: Callable[[str], None]
) -> dict[str, int]:
    """Ask for a decision on each row that has none yet, and write what is accepted; return the counts.

    `ask` gets a prompt and returns what was typed; EOFError ends the review as `q` does.
    """
    log = out.with_name(out.name + DECISIONS)
    decided = {line["row"]: line for line in read_jsonl(log)} if log.is_file() else {}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        for number, row in enumerate(rows, start=1):
            if identity(row) in decided:
                continue
            say(f"\n{number} of {len(rows)}   {source_of(row)}\nQ  {row['instruction']}\nA  {row['output']}")
            try:
                decision = decide(row, ask)
            except EOFError:
                decision = {"decision": "stop"}
            if decision["decision"] == "stop":
                break
            if decision["decision"] == "skip":
                continue
            line = {"row": identity(row), **decision}
            decided[line["row"]] = line
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
    accepted = list(accepted_rows(rows, decided))
    with published(out) as path:
        write_jsonl(path, accepted)
    decisions = [decided[identity(row)]["decision"] for row in rows if identity(row) in decided]
    return {name: decisions.count(name) for name in ("accept", "edit", "reject")} | {"open": len(rows) - len(decisions)}


def decide(row: dict[str, Any], ask: Callable[[str], str]) -> dict[str, str]:
    """The decision on one row; an empty line in an edit keeps the text as it is."""
    names = {"a": "accept", "r": "reject", "e": "edit", "s": "skip", "q": "stop"}
    typed = ask(f"[{HELP}] ").strip().lower()
    while typed not in names:
        typed = ask(f"{typed!r} is none of: {HELP} ").strip().lower()
    if names[typed] != "edit":
        return {"decision": names[typed]}
    question = ask("Q> ").strip() or row["instruction"]
    answer = ask("A> ").strip() or row["output"]
    return {"decision": "edit", "instruction": question, "output": answer}


def accepted_rows(rows: list[dict[str, Any]], decided: dict[str, dict[str, str]]) -> Iterator[dict[str, Any]]:
    """Yield the accepted rows, and the edited ones with their new texts."""
    for row in rows:
        line = decided.get(identity(row), {"decision": "open"})
        if line["decision"] == "accept":
            yield row
        elif line["decision"] == "edit":
            yield row | {"instruction": line["instruction"], "output": line["output"]}


def identity(row: dict[str, Any]) -> str:
    """What a decision holds for: this question with this answer, wherever it stands in the file."""
    return hashlib.sha256(f"{row['instruction']}\n{row['output']}".encode()).hexdigest()[:16]


def source_of(row: dict[str, Any]) -> str:
    """Where a row comes from, in words."""
    source = row.get("source") or {}
    return " ".join(
        [str(source.get("file", "")), *(f"{name} {source[name]}" for name in ("page", "line") if name in source)]
    )


def readable(path: Path, only: str) -> list[dict[str, Any]]:
    """The rows of a file with question and answer, prepared or raw. `only` chooses the rows that one back end made.

    Raises UserError for a row that is neither.
    """
    rows = []
    for number, record in enumerate(read_jsonl(path), start=1):
        row = dict(record)
        if messages := row.pop("messages", None):
            row |= {"instruction": messages[0]["content"], "output": messages[-1]["content"]}
        if "instruction" not in row or "output" not in row:
            raise UserError(f"{path}:{number}: found keys {sorted(record)}, needed messages, or instruction and output")
        if not only or (row.get("source") or {}).get("by") == only:
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="", help="rows made by this back end alone: rules, huggingface, openai")
    arguments = parser.parse_args()
    kept = f"every decision is kept in {arguments.out}{DECISIONS}"
    exit_on_user_error("review", lambda: start(arguments), interrupted=kept)


def start(arguments: argparse.Namespace) -> None:
    """Review in the terminal, and say how to go on."""
    rows = readable(arguments.file, arguments.only)
    counts = review(rows, arguments.out, input, lambda text: print(shown(text)))
    print("\n" + ", ".join(f"{count} {name}" for name, count in counts.items()))
    print(
        "What you rejected is made again as long as the stage reads what it is made of. To train on this alone, set in "
        f"params.yaml: prepare_pdf_qa: {{files: [{arguments.out}], pdfs: []}}"
    )


if __name__ == "__main__":
    main()
