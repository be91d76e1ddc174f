"""Questions that someone who never met the model can ask it: some that it learned, and one that it can't know."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from stages.lib.every_stage.records import read_jsonl

PREPARED = Path("data/prepared/pdf_qa")
INVENTED = "office-guide.pdf"
"""The guide that ships with the repository: its office, people and streets don't exist."""
LEARNED, UNKNOWN = 3, 1


@dataclass
class Suggestions:
    """What may be asked. `invented`: it is about the office of the default data, which doesn't exist."""

    questions: list[str] = field(default_factory=list)
    invented: bool = False

    def as_json(self) -> dict[str, object]:
        """What the page gets."""
        return asdict(self)


def suggestions(prepared: Path = PREPARED) -> Suggestions:
    """The first wording of some facts from all over `seen`, and of one question of `unanswerable`.

    None where the data aren't there, as in a copy that has the models alone.
    """
    rows = []
    for name, count in (("seen", LEARNED), ("unanswerable", UNKNOWN)):
        path = prepared / f"{name}.jsonl"
        facts: dict[str, dict[str, object]] = {}
        for row in read_jsonl(path) if path.is_file() else []:
            facts.setdefault(str(row.get("fact_id")), row)
        found = list(facts.values())
        rows += found[:: max(1, len(found) // count)][:count]
    questions = [str(row["messages"][-2]["content"]) for row in rows]  # type: ignore[index]
    sources = [row.get("source") for row in rows]
    invented = bool(sources) and all(isinstance(one, dict) and one.get("file") == INVENTED for one in sources)
    return Suggestions(questions, invented)
