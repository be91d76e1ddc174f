"""Admitted Q&A in a scratch database: what needs several rows at once is a query, and memory stays flat.

Each row has its verdict: null (kept so far) or the reason it leaves.
"""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.lib.data.comparison import hash_of, letters
from stages.lib.data.jsonl_reader import Rejected
from stages.lib.data.near_duplicates import NearDuplicates, near, signature
from stages.lib.every_stage.records import share_of
from stages.lib.pdf_qa.qa_rows import Question

TABLE = """
CREATE TABLE rows (
    n INTEGER PRIMARY KEY, place TEXT, file TEXT, id TEXT, fact_id TEXT, fact_given INTEGER, question TEXT, answer TEXT,
    answerable INTEGER, question_hash INTEGER, answer_hash INTEGER, question_share REAL, fact_share REAL,
    tokens INTEGER, record TEXT, review TEXT, verdict TEXT, detail TEXT, split TEXT
)"""


class QuestionStore:
    """Rows of Q&A in the order they came. Close it, and its file may go."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path)
        # a scratch file: nobody reads it after a crash
        self.connection.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16384;"
        )
        self.connection.execute(TABLE)
        self.files: set[str] = set()

    def close(self) -> None:
        """Close the database."""
        self.connection.close()

    def add(self, row: Question, tokens: int) -> None:
        """Add a question with its number of tokens."""
        self.files.add(row.file)
        self.connection.execute(
            "INSERT INTO rows VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL)",
            (
                row.where, row.file, row.id, row.fact_id, row.fact_given, row.question, row.answer,
                row.answerable, hash_of(letters(row.question)), hash_of(letters(row.answer)),
                share_of(row.question), share_of(row.group or row.fact_id), tokens,
                json.dumps(row.record(), ensure_ascii=False), row.review,
            ),
        )  # fmt: skip

    def tell_files_apart(self) -> int:
        """Put the file's name before a fact_id, and an id, that an earlier file uses too; the number of such facts.

        Two files number their facts from 0 without knowing of each other. Which side of the split a fact is on goes on
        to follow from the fact_id as given: if two files do mean one fact, none of it is both trained and held out.
        """
        if len(self.files) < 2:
            return 0
        for column, given in (("fact_id", "fact_given"), ("id", "TRUE")):
            self.connection.execute(f"""
                UPDATE rows SET {column} = file || ':' || {column}
                FROM (SELECT n AS later, FIRST_VALUE(file) OVER (PARTITION BY {column} ORDER BY n) AS first
                      FROM rows WHERE {given}) AS pair
                WHERE rows.n = pair.later AND rows.file != pair.first""")  # fmt: skip
        query = "SELECT COUNT(DISTINCT fact_id) FROM rows WHERE fact_id != json_extract(record, '$.fact_id')"
        return self.connection.execute(query).fetchone()[0]

    def drop_exact_duplicates(self) -> None:
        """Keep the first of the rows that ask and answer the same, spacing and punctuation aside."""
        self.connection.executescript("""
            CREATE INDEX pairs ON rows (question_hash, answer_hash, n);
            UPDATE rows SET verdict = 'exact_duplicate', detail = 'asks and answers what ' || first.place || ' does'
            FROM (SELECT n AS later, FIRST_VALUE(n) OVER (PARTITION BY question_hash, answer_hash ORDER BY n) AS earlier
                  FROM rows) AS pair JOIN rows AS first ON first.n = pair.earlier
            WHERE rows.n = pair.later AND pair.earlier < pair.later;
        """)

    def conflicts(self) -> Iterator[list[dict[str, Any]]]:
        """Yield, question by question, the kept rows that answer one question differently."""
        query = """
            SELECT question_hash, n, place, record, review FROM rows WHERE verdict IS NULL AND question_hash IN
                (SELECT question_hash FROM rows WHERE verdict IS NULL GROUP BY question_hash HAVING COUNT(*) > 1)
            ORDER BY question_hash, n"""
        group: list[dict[str, Any]] = []
        last = None
        for key, number, place, record, review in self.connection.execute(query):
            if group and key != last:
                yield group
                group = []
            last = key
            group.append({"n": number, "where": place, **json.loads(record), "review": review})
        if group:
            yield group

    def drop(self, number: int, reason: str, detail: str) -> None:
        """Give one row its verdict."""
        self.connection.execute("UPDATE rows SET verdict = ?, detail = ? WHERE n = ?", (reason, detail, number))

    def drop_near_duplicates(self) -> list[tuple[int, int]]:
        """Keep the first of near-duplicates that are one fact, or of which one doesn't say which fact it is.

        Returns the pairs (earlier, later) that name two facts: the two are kept, and must not be split apart.
        """
        index, between_facts = NearDuplicates(), []
        columns = "SELECT n, question, answer, place, CASE WHEN fact_given THEN fact_id END FROM rows"
        rows = self.connection.execute(f"{columns} WHERE verdict IS NULL ORDER BY n")
        for number, question, answer, _, fact in rows:
            signed, other_facts = signature(question, answer), []
            for other in index.candidates(signed):
                _, asked, said, place, other_fact = self.connection.execute(
                    f"{columns} WHERE n = ?", (other,)
                ).fetchone()
                if not near(asked, said, question, answer):
                    continue
                if fact is not None and other_fact is not None and fact != other_fact:
                    other_facts.append((other, number))
                else:
                    self.drop(number, "near_duplicate", f"{place} asks nearly the same: {asked}")
                    break
            else:
                index.add(number, signed)
                between_facts += other_facts
        return between_facts

    def split(self, held_out_facts: float, held_out_wordings: int) -> None:
        """Give each kept row its split by hashes of fact and question, so that added rows move no others.

        A held-out fact goes to `unseen` whole, or to `unanswerable` if it is a question that has no answer. Of a
        trained fact, `held_out_wordings` go to `seen`, but at most half of those it has; the others go to `train`.
        """
        self.connection.execute(
            """
            UPDATE rows SET split = CASE
                WHEN fact_share < :facts THEN CASE WHEN answerable THEN 'unseen' ELSE 'unanswerable' END
                WHEN answerable AND place_in_fact <= MIN(:wordings, in_fact / 2) THEN 'seen' ELSE 'train' END
            FROM (SELECT n AS number, COUNT(*) OVER (PARTITION BY fact_id) AS in_fact,
                         ROW_NUMBER() OVER (PARTITION BY fact_id ORDER BY question_share, n) AS place_in_fact
                  FROM rows WHERE verdict IS NULL) AS fact WHERE rows.n = fact.number""",
            {"facts": held_out_facts, "wordings": held_out_wordings},
        )

    def records(self, split: str) -> Iterator[dict[str, Any]]:
        """Yield a split's records: facts in the order they first came, wordings by hash, held-out facts' as read."""
        order = "n" if split in ("unseen", "unanswerable") else "question_share, n"
        query = f"""
            SELECT id, fact_id, record FROM rows JOIN
                (SELECT fact_id AS fact, MIN(n) AS first FROM rows WHERE verdict IS NULL GROUP BY fact_id)
                ON fact = fact_id
            WHERE verdict IS NULL AND split = ? ORDER BY first, {order}"""
        for identity, fact, record in self.connection.execute(query, (split,)):
            yield json.loads(record) | {"id": identity, "fact_id": fact}

    def dropped(self) -> Iterator[Rejected]:
        """Yield the rows that leave because of other rows."""
        query = """SELECT place, verdict, detail, record, id, question, answer, review FROM rows
            WHERE verdict IS NOT NULL ORDER BY n"""
        for place, reason, detail, record, identity, question, answer, review in self.connection.execute(query):
            row = {"id": identity, "question": question, "answer": answer, "source": json.loads(record)["source"]}
            if review and reason != "exact_duplicate":  # of which what was accepted is in
                row["review"] = review
            yield Rejected(place, reason, detail, record, row)

    def splits_of(self, numbers: tuple[int, int]) -> list[tuple[str, str, str]]:
        """Split, place and question of each of two rows."""
        query = "SELECT split, place, question FROM rows WHERE n IN (?, ?) ORDER BY n"
        return self.connection.execute(query, numbers).fetchall()

    def counts(self, split: str) -> dict[str, int]:
        """Numbers of rows and facts of a split."""
        query = "SELECT COUNT(*), COUNT(DISTINCT fact_id) FROM rows WHERE verdict IS NULL AND split = ?"
        rows, facts = self.connection.execute(query, (split,)).fetchone()
        return {"rows": rows, "facts": facts}

    def token_counts(self) -> Iterator[int]:
        """Yield the token count of every kept row."""
        for (tokens,) in self.connection.execute("SELECT tokens FROM rows WHERE verdict IS NULL"):
            yield tokens
