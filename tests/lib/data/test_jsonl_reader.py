"""Every encoding in use, every kind of damaged line, and no line lost."""

from pathlib import Path

import pytest

from stages.lib.data import jsonl_reader
from stages.lib.data.jsonl_reader import Line, Rejected, encoding_of, read_lines
from stages.lib.every_stage.errors import UserError

ROW = '{"질문": "여권과 전화번호는?"}\n'


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp949"], ids=lambda name: name
)
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes((ROW * 3).encode(encoding))
    lines = list(read_lines(path))
    assert [line.value for line in lines if isinstance(line, Line)] == [{"질문": "여권과 전화번호는?"}] * 3


def test_one_wrong_byte_far_into_a_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROW.encode() * 50_000 + b'{"x": "\xff\xff"}\n' + ROW.encode())
    with pytest.raises(UserError, match=r"rows.jsonl:50001:8: undecodable: found byte 0xff"):
        encoding_of(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1', "invalid_json"),
        ('{"a": NaN}', "invalid_json"),
        ('{"a": ' + "9" * 5000 + "}", "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ('{"a": {"b": 1, "b": 2}}', "duplicate_key"),
        ('{"a": "\\ud800"}', "invalid_unicode"),
    ],
)
def test_damaged_lines_are_rejected_and_the_next_one_is_read(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{text}\n\n{ROW}", encoding="utf-8")
    rejected, line = read_lines(path)
    assert isinstance(rejected, Rejected) and rejected.reason == reason and rejected.where.startswith(f"{path}:1")
    assert isinstance(line, Line) and line.where == f"{path}:3"


def test_a_line_without_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl_reader, "MAX_LINE", 100)
    path = tmp_path / "rows.jsonl"
    path.write_text("x" * 1000 + "\n" + ROW + "y" * 500, encoding="utf-8")
    kinds = [line.reason if isinstance(line, Rejected) else "line" for line in read_lines(path)]
    assert kinds == ["line_too_long", "line", "line_too_long"]
