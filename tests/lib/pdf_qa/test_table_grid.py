"""Values of a table under the names of their row and column, wherever the document merges cells or puts many in one."""

from stages.lib.pdf_qa.table_grid import Grid, grid_of, has_header, items
from stages.lib.pdf_qa.text_lines import TextLine


def grid(*rows: list[str], spans: list[list[int]] | None = None) -> Grid:
    return grid_of([list(row) for row in rows], spans or [], " ".join)


def values(*rows: list[str], spans: list[list[int]] | None = None) -> list[tuple[str, str, str]]:
    return list(grid(*rows, spans=spans).values())


def test_a_merged_cell_is_the_value_of_each_row_and_column_that_it_covers() -> None:
    found = values(
        ["월", "토요일", "일요일", "평일"], ["3월", "17:00", "14:00", "18:30"], ["6월", "17:30", "", ""],
        spans=[[1, 3, 3, 4], [2, 1, 3, 3]],
    )  # fmt: skip
    assert found == [
        ("3월", "토요일", "17:00"), ("3월", "일요일", "14:00"), ("3월", "평일", "18:30"),
        ("6월", "토요일", "17:30"), ("6월", "일요일", "17:30"), ("6월", "평일", "18:30"),
    ]  # fmt: skip


def test_a_header_of_two_rows_names_its_columns_by_both() -> None:
    found = values(
        ["유형", "100만원 미만", "", "이상"], ["", "수동", "능동", ""], ["처분과 관계없이", "감봉", "정직", "파면"],
        spans=[[0, 0, 2, 1], [0, 1, 1, 3], [0, 3, 2, 4]],
    )  # fmt: skip
    assert [column for _, column, _ in found] == ["100만원 미만 수동", "100만원 미만 능동", "이상"]


def test_a_row_is_named_by_as_many_cells_as_tell_it_from_the_others() -> None:
    spans = [[1, 0, 3, 1], [1, 1, 3, 2]]
    found = values(
        ["기종", "이름", "변형", "커널"], ["x86", "i386", "일반", "generic"], ["", "", "Xen", "xen"], spans=spans
    )
    assert found == [("x86", "이름", "i386"), ("x86 일반", "커널", "generic"), ("x86 Xen", "커널", "xen")]
    named = values(
        ["구분", "", "담당자"], ["정책", "중요", "4"], ["", "일반", "3"], ["단독", "", "1"],
        spans=[[0, 0, 1, 2], [1, 0, 3, 1], [3, 0, 4, 2]],
    )  # fmt: skip
    assert named == [("정책 중요", "담당자", "4"), ("정책 일반", "담당자", "3"), ("단독", "담당자", "1")]


def test_what_stands_beside_a_name_in_two_columns_is_one_value() -> None:
    found = values(["장치", "정보"], ["디스크", "용량"], ["", "순서"], ["프린터", "모델"], spans=[[1, 0, 3, 1]])
    assert found == [("디스크", "정보", "용량\n순서"), ("프린터", "정보", "모델")]


def test_each_item_of_an_outline_has_the_value_beside_it() -> None:
    outline = "1. 성실의무 위반\n가. 공금횡령, 업무상\n배임\n나. 직무태만\n2. 공정의무 위반"
    assert items(outline) == ["성실의무 위반\n공금횡령, 업무상\n배임", "성실의무 위반\n직무태만", "공정의무 위반"]
    assert values(["유형", "고의", "과실"], [outline, "파면\n파면\n정직", "정직\n감봉\n견책"]) == [
        ("성실의무 위반 공금횡령, 업무상 배임", "고의", "파면"),
        ("성실의무 위반 공금횡령, 업무상 배임", "과실", "정직"),
        ("성실의무 위반 직무태만", "고의", "파면"), ("성실의무 위반 직무태만", "과실", "감봉"),
        ("공정의무 위반", "고의", "정직"), ("공정의무 위반", "과실", "견책"),
    ]  # fmt: skip
    law = values(
        ["법령", "의무", "문책"], ["안전법", "① 고장\n② 미비", "정직\n감봉"], ["공사법", "① 발주\n② 도급", "감봉"]
    )
    assert law == [("안전법 고장", "문책", "정직"), ("안전법 미비", "문책", "감봉")]  # 공사법: whose is 감봉?


def test_notes_over_all_rows_or_columns_are_no_values() -> None:
    note = "이 표에서 말하는 음주운전이란 도로교통법 제44조제1항을 위반하여 음주운전을 한 것을 말하며 " * 3
    rows = [["유형", "기준", "비고"], ["2회", "정직", note], ["3회", "파면", ""], [note, "", ""]]
    assert values(*rows, spans=[[1, 2, 4, 3], [3, 0, 4, 3]]) == [("2회", "기준", "정직"), ("3회", "기준", "파면")]


def test_a_cell_over_all_columns_is_the_title() -> None:
    found = grid(["음주운전 기준", ""], ["유형", "기준"], ["2회", "정직"], spans=[[0, 0, 1, 2]])
    assert (found.title, found.header) == ("음주운전 기준", ["유형", "기준"])


def test_a_first_row_like_the_others_is_no_header_unless_it_alone_is_bold() -> None:
    plain, bold = [TextLine("x", bold=False)], [TextLine("x", bold=True)]
    devices = grid(["sda", "첫번째 하드디스크"], ["sdb", "두번째 하드디스크"], ["sr0", "첫번째 CD-ROM"])
    assert not has_header(devices, plain, plain)
    assert has_header(devices, bold, plain)
    assert not has_header(grid(["dpkg -l", "패키지 나열."], ["dpkg -i", "파일 설치."]), plain, plain)
    assert has_header(grid(["기관", "전화번호"], ["시청", "120"], ["보건소", "4040"]), plain, plain)
    assert has_header(grid(["a", "b", "c"], ["d", "b", "c"]), plain, plain)  # not two columns
