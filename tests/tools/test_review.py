"""A review keeps what was accepted, changes what was edited, and goes on where it was left."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.lib.errors import UserError
from stages.lib.pdf_qa.qa_files import questions_and_pdfs, unread_files
from stages.lib.records import read_jsonl, write_jsonl
from stages.lib.schema.data import PreparePdfQa
from tools.review import readable, review

REPOSITORY = Path(__file__).parents[2]
ROWS = [
    {"id": str(n), "instruction": f"{n}번 창구는 어디인가요?", "output": f"{n}층입니다.", "source": {"by": "rules"}}
    for n in range(4)
]


def typing(*lines: str) -> Callable[[str], str]:
    """Someone who types these lines and then leaves."""
    left = list(lines)

    def ask(prompt: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    return ask


def ids(path: Path) -> list[str]:
    return [row["id"] for row in read_jsonl(path)]


def test_accept_reject_edit(tmp_path: Path) -> None:
    out = tmp_path / "own/reviewed.jsonl"
    counts = review(ROWS, out, typing("a", "x", "r", "e", "", "4층입니다.", "s"), lambda text: None)
    assert counts == {"accept": 1, "edit": 1, "reject": 1, "open": 1}
    accepted = list(read_jsonl(out))
    assert accepted == [ROWS[0], ROWS[2] | {"output": "4층입니다."}]


def test_the_folder_of_own_rows_takes_a_review_and_not_its_decisions(tmp_path: Path) -> None:
    out = tmp_path / "own/reviewed.jsonl"
    review(ROWS, out, typing("a", "e", "", "4층입니다."), lambda text: None)
    assert len(list(out.parent.iterdir())) == 2
    section = PreparePdfQa(files=[str(out.parent)], max_tokens=100)
    assert questions_and_pdfs(section) == ([out], []) and unread_files(section, [out]) == []


def test_a_review_goes_on_where_it_was_left(tmp_path: Path) -> None:
    out = tmp_path / "reviewed.jsonl"
    review(ROWS, out, typing("a", "r"), lambda text: None)
    assert ids(out) == ["0"]
    shown: list[str] = []
    review(ROWS, out, typing("a", "q"), shown.append)
    assert ids(out) == ["0", "2"] and "2번 창구" in shown[0]


def test_prepared_and_raw_rows_are_read(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "질문인가요?"}, {"role": "assistant", "content": "답입니다."}]
    prepared: dict[str, Any] = {"id": "a", "messages": messages, "source": {"by": "rules"}}
    rows = [prepared, ROWS[0] | {"source": {"by": "openai"}}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert [row["instruction"] for row in readable(tmp_path / "rows.jsonl", "rules")] == ["질문인가요?"]
    assert len(readable(tmp_path / "rows.jsonl", "")) == 2
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "?"}])
    with pytest.raises(UserError, match=r"rows.jsonl:1: found keys \['question'\]"):
        readable(tmp_path / "rows.jsonl", "")


def test_the_command(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    command = [sys.executable, "-m", "tools.review", str(tmp_path / "rows.jsonl"), str(tmp_path / "out.jsonl")]
    done = subprocess.run(command, input="a\nr\n", cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, counts, remedy = done.stdout.splitlines()
    assert counts == "1 accept, 0 edit, 1 reject, 2 open" and ids(tmp_path / "out.jsonl") == ["0"]
    assert remedy.endswith(f"prepare_pdf_qa: {{files: [{tmp_path / 'out.jsonl'}], pdfs: []}}")
