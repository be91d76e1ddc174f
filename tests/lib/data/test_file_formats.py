"""One set of rows in every format and encoding comes out the same, and what is damaged is named."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.lib.data import file_formats
from stages.lib.data.file_formats import read_rows
from stages.lib.data.jsonl_reader import Line, Rejected
from stages.lib.every_stage.errors import UserError
from tests.row_files import write

ROWS = [
    {"질문": "여권은 어디서\n받나요?", "답변": '1층 "3번" 창구, 오른쪽입니다.'},
    {"질문": "주차는 되나요?", "답변": "한 시간까지 무료입니다."},
]


def values(path: Path) -> list[Any]:
    return [line.value for line in read_rows(path) if isinstance(line, Line)]


@pytest.mark.parametrize("ending", [*file_formats.ENDINGS, ".CSV"])
def test_the_same_rows_from_every_format(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"rows{ending.lower()}", ROWS).rename(tmp_path / f"rows{ending}")
    assert values(path) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp949"])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".json", ".jsonl.gz", ".csv.gz"])
def test_the_same_rows_in_every_encoding(tmp_path: Path, ending: str, encoding: str) -> None:
    assert values(write(tmp_path / f"rows{ending}", ROWS, encoding)) == ROWS


def test_arrow_in_its_other_form(tmp_path: Path) -> None:
    import pyarrow

    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.ipc.new_file(tmp_path / "rows.arrow", table.schema) as file:
        file.write_table(table)
    assert values(tmp_path / "rows.arrow") == ROWS


@pytest.mark.parametrize("delimiter", ";|\t")
def test_cells_may_be_apart_by_another_sign(tmp_path: Path, delimiter: str) -> None:
    (tmp_path / "rows.csv").write_text(f"질문{delimiter}답변\n가, 나?{delimiter}다\n", encoding="utf-8")
    assert values(tmp_path / "rows.csv") == [{"질문": "가, 나?", "답변": "다"}]


@pytest.mark.parametrize(
    "text",
    [
        '{"version": "1", "data": [{"a": 1}, {"a": 2}]}',
        '{"a": 1}\n{"a": 2}\n',
        '[\n{"a": 1}\n, {"a": 2}]',
        ' {"a": 1} {"a":\n2}',
    ],
)
@pytest.mark.parametrize("longest", [2**20, 12])
def test_json_in_its_forms_however_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, longest: int
) -> None:
    if longest == 12 and text.startswith((" ", '{"a"')):
        pytest.skip("values in sequence are short")
    monkeypatch.setattr(file_formats, "MAX_LINE", longest)
    monkeypatch.setattr(file_formats, "PIECE", 5)
    (tmp_path / "rows.json").write_text(text, encoding="utf-8")
    assert values(tmp_path / "rows.json") == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", '[{"a": 1},\n {"a" 2}]', r"a.json:2:7: invalid_json: Expecting ':' delimiter"),
        ("a.json", '[{"a": 1}\n', r"a.json:2:1: invalid_json: needed ',', found 'the end of the file'"),
        ("a.json", '[{"a": 1}] x', r"a.json:1:12: invalid_json: needed the end of the file"),
        ("a.json", "[" * 100_000, r"a.json:1:2: invalid_json"),
        ("a.csv", "a,a\n1,2\n", r"a.csv: found the column \['a'\] more than once"),
        ("a.parquet", "PAR1", r"a.parquet: damaged"),
        ("a.arrow", "x" * 100, r"a.arrow: damaged"),
        ("a.xlsx", "PK", r"a.xlsx: damaged"),
        ("a.jsonl.gz", "{}", r"a.jsonl.gz: damaged"),
        ("a.txt", "{}", r"found the ending '.txt', needed one of .jsonl"),
    ],
)
def test_a_damaged_file_is_named_with_its_place(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        values(tmp_path / name)


def test_a_packed_file_that_breaks_off_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl.gz", ROWS * 1000)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"rows.jsonl.gz: damaged"):
        values(path)


def test_rows_of_a_table_that_dont_fit_are_rejected_by_line_and_the_others_read(tmp_path: Path) -> None:
    text = 'q,a\n1,2,3\n4\n"5"x,6\n\n7,8\n"9,10\n'
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    found = list(read_rows(tmp_path / "rows.csv"))
    assert [line.value for line in found if isinstance(line, Line)] == [{"q": "7", "a": "8"}]
    places = [line.where.rpartition(":")[2] for line in found if isinstance(line, Rejected)]
    assert places == ["2", "3", "4", "7"]


def test_every_sheet_is_read_and_cells_are_what_they_show(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    for sheet in (book.active, book.create_sheet("둘")):
        for row in (
            ["질문", "답변", None],
            [None, None, None],
            ["몇 층인가요?", 3.0, None],
            ["얼마인가요?", 2.5, None],
        ):
            sheet.append(row)
    book.save(tmp_path / "rows.xlsx")
    lines = list(read_rows(tmp_path / "rows.xlsx"))
    assert [line.value["답변"] for line in lines] == ["3", "2.5"] * 2
    assert [line.where.rpartition("/")[2] for line in lines][2:] == ["rows.xlsx 둘:3", "rows.xlsx 둘:4"]


cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1).filter(str.strip)


@given(rows=st.lists(st.tuples(cells, cells), min_size=1), ending=st.sampled_from([".csv", ".json", ".jsonl", ".tsv"]))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_rows_say_comes_back(tmp_path: Path, rows: list[tuple[str, str]], ending: str) -> None:
    written = [{"question": question, "answer": answer} for question, answer in rows]
    assert values(write(tmp_path / f"rows{ending}", written)) == written


@given(content=st.binary(max_size=200) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("ending", [".csv", ".json", ".jsonl.gz", ".parquet", ".arrow", ".xlsx"])
def test_whatever_a_file_holds_is_read_or_refused_by_name(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"any{ending}"
    path.write_bytes(content)
    try:
        assert all(line.where.startswith(str(path)) for line in read_rows(path))
    except UserError as error:
        assert str(path) in str(error)
