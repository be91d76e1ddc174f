"""Raw text on its way to training: copies dropped, what evaluation asks left out, filled up into rows.

{"id": "guide.pdf#2", "text": "2. 이용 시간 …", "source": {"file": "guide.pdf", "sha256": "3f…", "pages": [3, 4]}}
A row is one document's: paragraphs that follow each other, as many as fit into `max_tokens`.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from stages.lib.data.columns import Reading, Unfit
from stages.lib.data.comparison import hash_of, letters
from stages.lib.data.data_report import table
from stages.lib.data.jsonl_reader import Line, Rejected, opened_text
from stages.lib.data.ledger import Ledger
from stages.lib.data.near_duplicates import NearDuplicates, near, signature
from stages.lib.data.rendered_rows import RowRenderer
from stages.lib.data.shapes import as_raw_text
from stages.lib.every_stage.records import write_jsonl
from stages.lib.pdf_qa.raw_text import NO_PROSE, SPOILED, Paragraph, Unclean, clean_paragraphs, text_paragraphs
from stages.lib.pdf_qa.text_leaks import HeldOutFacts
from stages.lib.schema.choices import PersonalData
from stages.lib.schema.data import PreparePdfQa

TEXT = "text.jsonl"
REJECTS = "text_rejects.jsonl"
STEPS = {
    "prose": NO_PROSE,
    "readable": (*SPOILED, "pii"),
    "no copies": ("exact_duplicate", "near_duplicate"),
    "not asked by evaluation": ("asked_by_evaluation",),
}
"""The funnel's steps, and the reasons that each drops paragraphs for."""

COPY = 40
"""Letters from which on an equal paragraph is a copy; a short item (신분증 사본) may be in many lists."""
BATCH = 500

TABLE = """
CREATE TABLE paragraphs (
    n INTEGER PRIMARY KEY, document INTEGER, file TEXT, sha256 TEXT, place TEXT, page INTEGER, start INTEGER,
    stop INTEGER, joint TEXT, text TEXT, bare TEXT, tokens INTEGER, verdict TEXT, detail TEXT
)"""


@contextmanager
def opened_store(
    scratch: Path, out: Path, section: PreparePdfQa, renderer: RowRenderer, base: Path
) -> "Iterator[TextStore | None]":
    """A store for raw text where `section` asks for it, else None; see TextStore for the rest."""
    if not section.raw_text:
        yield None
        return
    with closing(TextStore(scratch, out, section, renderer, base)) as store:
        yield store


class TextStore:
    """Paragraphs in the order they came, in a scratch database, and the account of them.

    `out` gets text.jsonl and text_rejects.jsonl; `base` is the model directory whose special tokens no text may spell.
    Close it, and the scratch file may go.
    """

    def __init__(self, scratch: Path, out: Path, section: PreparePdfQa, renderer: RowRenderer, base: Path) -> None:
        self.connection = sqlite3.connect(scratch)
        self.connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
        self.connection.execute(TABLE)
        self.ledger = Ledger(out, STEPS, REJECTS)
        self.out, self.section, self.renderer = out, section, renderer
        self.special = special_texts(renderer, base)
        self.documents = 0
        self.rows_of: Counter[str] = Counter()  # by file

    def close(self) -> None:
        """Close the database and the file of rejects."""
        self.connection.close()
        self.ledger.file.close()

    def finish(self, held_out: Iterable[dict[str, Any]], report: dict[str, Any]) -> int:
        """Drop copies, and what answers the `held_out` records of evaluation; write the rest, and account in `report`.

        Returns the number of rows.
        """
        self.drop_copies()
        self.drop_asked(held_out)
        found = self.write()
        report["raw_text"] = found
        report["sources"] = [{**source, "text_rows": self.rows_of[source["name"]]} for source in report["sources"]]
        return int(found["rows"])

    def add(self, paragraphs: Iterable[Paragraph], path: str, label: str, sha256: str = "") -> None:
        """Add one document. `path` and `label` name its file; `sha256` is a PDF's, whose places are pages."""
        self.documents += 1
        drop = self.section.personal_data is PersonalData.drop
        batch: list[Paragraph] = []
        for found in clean_paragraphs(paragraphs, self.special, drop):
            self.ledger.read += 1
            if isinstance(found, Unclean):
                where, text = f"{path}:{found.paragraph.place}", found.paragraph.text
                self.ledger.reject(Rejected(where, found.reason, found.detail, text))
                continue
            self.ledger.fixed.update(found.fixed)
            self.ledger.reported.update(f"pii: {kind}" for kind in found.personal_data)
            batch.append(found)
            if len(batch) == BATCH:
                self.insert(batch, path, label, sha256)
                batch = []
        self.insert(batch, path, label, sha256)

    def insert(self, batch: list[Paragraph], path: str, label: str, sha256: str) -> None:
        """Put clean paragraphs of one document into the database, with their numbers of tokens."""
        counts = self.renderer.counted([paragraph.joint + paragraph.whole() for paragraph in batch])
        self.connection.executemany(
            "INSERT INTO paragraphs VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
            [
                (self.documents, label, sha256, f"{path}:{each.place}", each.place, each.start, each.end, each.joint,
                 each.whole(), each.text, tokens)
                for each, tokens in zip(batch, counts, strict=True)
            ],
        )  # fmt: skip

    def add_files(self, paths: list[Path], readings: dict[Path, Reading]) -> None:
        """Add text files, each as one document."""
        for path in paths:
            before = self.ledger.read
            with opened_text(path) as file:
                self.add(text_paragraphs(file), str(path), readings[path].label)
            if self.ledger.read == before:
                self.reject_blank(f"{path}:1")

    def without_texts(self, lines: Iterable[Line | Rejected], reading: Reading) -> Iterator[Line | Rejected]:
        """Yield the lines that aren't raw text, and add each that is as a document of its own."""
        for line in lines:
            try:
                text = as_raw_text(line, reading) if isinstance(line, Line) else None
            except Unfit as unfit:
                reason, detail = unfit.args
                assert isinstance(line, Line)
                yield Rejected(line.where, reason, detail, json.dumps(line.value, ensure_ascii=False, default=str))
                continue
            if text is None or not isinstance(line, Line):
                yield line
                continue
            path, _, number = line.where.rpartition(":")
            paragraphs = list(text_paragraphs(text.splitlines()))
            for paragraph in paragraphs:
                paragraph.place = int(number)
            self.add(paragraphs, path, reading.label)
            if not paragraphs:
                self.reject_blank(line.where)

    def reject_blank(self, where: str) -> None:
        """Count a document without any text as a paragraph that is dropped."""
        self.ledger.read += 1
        self.ledger.reject(Rejected(where, "fragment", "holds no text", ""))

    def drop_copies(self) -> None:
        """Keep the first of paragraphs that say the same, or nearly so with numbers, names and negations equal."""
        first: dict[int, tuple[int, str]] = {}
        index, verdicts = NearDuplicates(), []
        for number, text, place in self.connection.execute("SELECT n, bare, place FROM paragraphs ORDER BY n"):
            said = letters(text)
            if len(said) < COPY:
                continue
            earlier = first.setdefault(hash_of(said), (number, place))
            if earlier[0] != number:
                verdicts.append(("exact_duplicate", f"says what {earlier[1]} does", number))
                continue
            signed = signature(text)
            for other in index.candidates(signed):
                query = "SELECT bare, place FROM paragraphs WHERE n = ?"
                known, where = self.connection.execute(query, (other,)).fetchone()
                if near(known, "", text, ""):
                    verdicts.append(("near_duplicate", f"says nearly what {where} does", number))
                    break
            else:
                index.add(number, signed)
        self.drop(verdicts)

    def drop_asked(self, held_out: Iterable[dict[str, Any]]) -> None:
        """Drop what states the answer to a held-out question; `held_out` are records of evaluation."""
        asked, verdicts = HeldOutFacts(held_out), []
        query = "SELECT n, bare, sha256, page, start, stop FROM paragraphs WHERE verdict IS NULL ORDER BY n"
        for number, text, sha256, page, start, stop in self.connection.execute(query):
            if found := asked.stated_by(text, sha256, page, start, stop):
                verdicts.append(("asked_by_evaluation", f"states the answer to {found}", number))
        self.drop(verdicts)

    def drop(self, verdicts: list[tuple[str, str, int]]) -> None:
        """Give paragraphs their verdicts: reason, detail, number."""
        self.connection.executemany("UPDATE paragraphs SET verdict = ?, detail = ? WHERE n = ?", verdicts)

    def write(self) -> dict[str, Any]:
        """Write text.jsonl and the rejects; the account of paragraphs, rows and tokens for the report."""
        query = "SELECT place, verdict, detail, bare FROM paragraphs WHERE verdict IS NOT NULL ORDER BY n"
        for rejected in self.connection.execute(query):
            self.ledger.reject(Rejected(*rejected))
        (kept,) = self.connection.execute("SELECT COUNT(*) FROM paragraphs WHERE verdict IS NULL").fetchone()
        tokens = 0

        def records() -> Iterator[dict[str, Any]]:
            nonlocal tokens
            for parts in self.rows():
                tokens += sum(part["tokens"] for part in parts)
                yield self.record(parts)

        rows = write_jsonl(self.out / TEXT, records())
        return {**self.ledger.balance(kept), "rows": rows, "tokens": tokens}

    def rows(self) -> Iterator[list[dict[str, Any]]]:
        """Yield the paragraphs of each row: of one document, with none left out between, and none more would fit."""
        query = "SELECT n, document, file, sha256, page, joint, text, tokens, verdict FROM paragraphs ORDER BY n"
        cursor = self.connection.execute(query)
        names = [column[0] for column in cursor.description]
        row: list[dict[str, Any]] = []
        tokens = 0
        for values in cursor:
            part = dict(zip(names, values, strict=True))
            goes_on = row and row[-1]["document"] == part["document"] and part["verdict"] is None
            if row and (not goes_on or tokens + part["tokens"] > self.section.max_tokens):
                yield row
                row, tokens = [], 0
            if part["verdict"] is None:
                row.append(part)
                tokens += part["tokens"]
        if row:
            yield row

    def record(self, parts: list[dict[str, Any]]) -> dict[str, Any]:
        """The record that training reads of the paragraphs of a row."""
        first, last = parts[0], parts[-1]
        self.rows_of[first["file"]] += 1
        text = first["text"] + "".join(part["joint"] + part["text"] for part in parts[1:])
        pages = {"sha256": first["sha256"], "pages": [first["page"], last["page"]]}
        places = pages if first["sha256"] else {"lines": [first["page"], last["page"]]}
        return {"id": f"{first['file']}#{self.rows_of[first['file']]}", "text": text,
                "source": {"file": first["file"], **places}}  # fmt: skip


def special_texts(renderer: RowRenderer, base: Path) -> list[str]:
    """How the base model's special tokens are written, those that end an answer among them."""
    known = renderer.tokenizer.get_added_tokens_decoder()
    texts = {token.content for token in known.values() if token.special}
    config = base / "generation_config.json"
    stops = json.loads(config.read_text(encoding="utf-8")).get("eos_token_id") if config.is_file() else None
    for stop in stops if isinstance(stops, list) else [stop for stop in [stops] if stop is not None]:
        texts.add(renderer.tokenizer.id_to_token(stop) or "")
    return sorted(texts - {""})


def text_funnel(ledger: Ledger) -> list[tuple[str, int]]:
    """The bars of raw text, named so that they can stand below the questions'."""
    return [(f"raw text: {step}", count) for step, count in ledger.funnel()]


def text_headline(report: dict[str, Any]) -> list[str]:
    """A line for whoever watches the stage: what became of the paragraphs, where raw text was asked for."""
    if not (found := report.get("raw_text")):
        return []
    return [f"raw text: {balance(found)}; {found['rows']} rows of {found['tokens']} tokens in {TEXT}"]


def balance(found: dict[str, Any]) -> str:
    """The account of the paragraphs in one sentence."""
    dropped = ", ".join(f"{count} {reason}" for reason, count in found["dropped"].items())
    counted = f"{found['in']} paragraphs read = {found['kept']} kept + {sum(found['dropped'].values())} dropped"
    return f"{counted}{f' ({dropped})' if dropped else ''}"


def text_card(report: dict[str, Any], ledger: Ledger) -> list[str]:
    """The data card's part about raw text."""
    found = report["raw_text"]
    parts = [
        "## Raw text",
        f"{balance(found)}. {found['rows']} rows of {found['tokens']} tokens in `{TEXT}`: SFT learns all of their "
        "tokens, without a template and without a stop token, since a passage is no answer and its document goes on.",
        table(("step", "paragraphs left"), ledger.funnel()),
    ]
    if found["dropped"]:
        parts += [f"Each paragraph left out is listed in `{REJECTS}`."]
    if found["reported"]:
        parts += ["Kept, but look at them:", table(("what", "paragraphs"), found["reported"].items())]
    parts += [
        "What states the answer to a question of `unseen` is left out: where the answer was taken from, what shares "
        "most of its wording, what holds all keys of the fact. The same fact in other words isn't recognised. Facts of "
        "`seen` are trained on anyway, so their text stays."
    ]
    return parts
