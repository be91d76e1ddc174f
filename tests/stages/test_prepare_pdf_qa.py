"""Whatever comes in, the stage keeps it or says why not, and nothing that evaluation asks is trained on."""

import gzip
import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import read_jsonl, share_of
from stages.lib.pdf_qa.review_decisions import FILE as DECISIONS
from stages.lib.pdf_qa.review_decisions import Decision
from stages.lib.schema.choices import Conflicts, PersonalData, Rewording
from stages.lib.schema.data import PreparePdfQa, Reword
from stages.prepare_pdf_qa import SPLITS, prepare_pdf_qa
from tests import row_files
from tests.byte_tokenizer import write_byte_tokenizer
from tools.lib.append_only import append

REPOSITORY = Path(__file__).parents[2]
DIRTY = REPOSITORY / "tests/data/dirty"
OUT = Path("data/prepared/pdf_qa")
EXPECTED = json.loads((DIRTY / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_byte_tokenizer(tmp_path / "models/base")
    return tmp_path


def settings_for(*files: Path, **changes: Any) -> PreparePdfQa:
    return PreparePdfQa(
        **({"files": [str(file) for file in files], "max_tokens": 1024, "max_reject_rate": 1.0} | changes)
    )


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def kept_rows(out: Path = OUT) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for name in SPLITS for row in read_jsonl(out / f"{name}.jsonl")}


def texts(row: dict[str, Any]) -> dict[str, str]:
    return {"instruction": row["messages"][0]["content"], "output": row["messages"][1]["content"]}


def fact_that_is(held_out: bool, stem: str) -> str:
    """A fact_id whose hash puts it into or out of the held-out fifth."""
    return next(name for name in (f"{stem}-{n}" for n in range(100)) if (share_of(name) < 0.2) == held_out)


TRAINED = {
    "instruction": "시민청에는 창구가 모두 몇 개 있나요?",
    "output": "창구는 모두 아홉 개입니다.",
    "fact_id": fact_that_is(False, "trained"),
}
"""A row that is always trained on, without which the stage refuses to go on."""


@pytest.fixture
def dirty(workspace: Path) -> dict[str, Any]:
    prepare_pdf_qa(settings_for(DIRTY / "pdf_qa_dirty.jsonl"), workspace)
    rejects = list(read_jsonl(OUT / "rejects.jsonl"))
    return {
        "kept": kept_rows(),
        "reasons": {int(reject["where"].split(":")[1]): reject["reason"] for reject in rejects},
        "rejects": rejects,
        "report": json.loads((OUT / "data_report.json").read_text(encoding="utf-8")),
    }


@pytest.mark.parametrize("line", range(1, len(EXPECTED["lines"]) + 1))
def test_each_planted_defect_has_its_reason(dirty: dict[str, Any], line: int) -> None:
    expected = EXPECTED["lines"][str(line)]
    if expected["action"] in ("reject", "conflict"):
        assert dirty["reasons"].get(line) == expected["reason"]
        assert f"dirty-{line:02}" not in dirty["kept"]
        return
    assert line not in dirty["reasons"]
    row = dirty["kept"][f"dirty-{line:02}"]
    source = json.loads((DIRTY / "pdf_qa_dirty.jsonl").read_text(encoding="utf-8").split("\n")[line - 1])
    if expected["action"] == "repair":
        assert texts(row) == expected["repaired"]
    elif expected["action"] == "clean":
        invisible = dict.fromkeys(map(ord, "\u200b\u200d\ufeff\u0001\u0007"))
        for name, text in texts(row).items():
            assert text == unicodedata.normalize("NFC", source[name].translate(invisible))
            assert text != source[name] or name == "instruction"
    else:
        assert texts(row) == {name: source[name] for name in ("instruction", "output")}


def test_the_dirty_set_is_accounted_for(dirty: dict[str, Any]) -> None:
    actions = Counter(expected["action"] for expected in EXPECTED["lines"].values())
    report = dirty["report"]
    assert report["in"] == 44 == report["kept"] + sum(report["dropped"].values())
    assert sum(report["dropped"].values()) == actions["reject"] + actions["conflict"] == len(dirty["rejects"])
    assert sum(report["reported"].values()) == actions["report"]
    reasons = Counter(expected["reason"] for expected in EXPECTED["lines"].values())
    assert report["fixed"] == {name: reasons[name] for name in ("control_characters", "nfd", "zero_width")} | {
        "mojibake": 2
    }


def test_rejects_say_where_and_name_the_remedy(dirty: dict[str, Any]) -> None:
    details = {int(reject["where"].split(":")[1]): reject for reject in dirty["rejects"]}
    assert details[3]["where"].count(":") == 2  # file:line:column
    assert "'instrution'" in details[8]["detail"] and "prepare_pdf_qa.columns" in details[8]["detail"]
    assert "cp1253" in details[43]["detail"]


def test_both_sides_of_a_conflict_are_listed(dirty: dict[str, Any]) -> None:
    conflicts = list(read_jsonl(OUT / "conflicts.jsonl"))
    assert [row["id"] for row in conflicts] == ["dirty-22", "dirty-23"]


@pytest.mark.parametrize(("policy", "kept"), [(Conflicts.keep_first, "dirty-22"), (Conflicts.keep_latest, "dirty-23")])
def test_a_conflict_policy_keeps_one(workspace: Path, policy: Conflicts, kept: str) -> None:
    prepare_pdf_qa(settings_for(DIRTY / "pdf_qa_dirty.jsonl", conflicts=policy), workspace)
    assert {"dirty-22", "dirty-23"} & set(kept_rows()) == {kept}


def test_a_conflict_may_stop_the_stage(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"pdf_qa_dirty.jsonl:22, .*:23.*prepare_pdf_qa.conflicts"):
        prepare_pdf_qa(settings_for(DIRTY / "pdf_qa_dirty.jsonl", conflicts=Conflicts.error), workspace)


@pytest.mark.parametrize("name", [name for name, file in EXPECTED["files"].items() if file["action"] == "keep"])
def test_encodings(workspace: Path, name: str) -> None:
    prepare_pdf_qa(settings_for(DIRTY / name), workspace)
    rows = kept_rows()
    assert len(rows) == EXPECTED["files"][name]["rows"]
    assert all("가" <= text[0] <= "힣" for row in rows.values() for text in texts(row).values())


def test_undecodable_bytes_fail_naming_the_place(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"undecodable.jsonl:1:64?.*undecodable: found byte 0xff"):
        prepare_pdf_qa(settings_for(DIRTY / "undecodable.jsonl"), workspace)
    assert not OUT.exists()


def test_too_many_rejects_stop_the_stage(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"of 44 rows are rejected, more than prepare_pdf_qa.max_reject_rate = 0.1"):
        prepare_pdf_qa(settings_for(DIRTY / "pdf_qa_dirty.jsonl", max_reject_rate=0.1), workspace)
    assert not OUT.exists()


def test_personal_data_can_be_dropped(workspace: Path) -> None:
    prepare_pdf_qa(settings_for(DIRTY / "pdf_qa_dirty.jsonl", personal_data=PersonalData.drop), workspace)
    report = json.loads((OUT / "data_report.json").read_text(encoding="utf-8"))
    assert report["dropped"]["pii"] == 3 and not {"dirty-35", "dirty-36", "dirty-37"} & set(kept_rows())


ASKED = {"q": "question", "a": "answer"}


def test_foreign_names_of_fields(workspace: Path) -> None:
    file = write_rows(workspace / "faq.jsonl", [{"q": "도서관은 언제 쉬나요?", "a": "월요일에 쉽니다."}])
    prepare_pdf_qa(settings_for(file, columns={"faq.jsonl": ASKED}, held_out_facts=0.0), workspace)
    (row,) = kept_rows().values()
    assert row["id"] == "faq.jsonl:1"
    assert row["source"] == {"file": "faq.jsonl", "line": 1}
    assert row["key"] == [] and row["answerable"] is True


def test_columns_are_mapped_by_file_and_a_name_that_no_file_has_is_refused(workspace: Path) -> None:
    rows = [{"q": f"{n}번 창구는 어디인가요?", "a": f"{n}층입니다.", "비고": "메모"} for n in range(3)]
    files = [write_rows(workspace / f"{name}.jsonl", rows[n : n + 1]) for n, name in enumerate("xyz")]
    columns = {"x.jsonl": {**ASKED, "비고": "ignore"}, "[yz].jsonl": ASKED}
    prepare_pdf_qa(settings_for(*files, columns=columns, held_out_facts=0.0), workspace)
    assert list(kept_rows()) == ["x.jsonl:1"]
    reject = next(iter(read_jsonl(OUT / "rejects.jsonl")))
    assert reject["reason"] == "unread_field"
    assert "'비고' holds \"메모\" and nothing reads it" in reject["detail"]
    assert "prepare_pdf_qa.columns (y.jsonl), e.g. {비고: ignore}" in reject["detail"]
    with pytest.raises(UserError, match=r"prepare_pdf_qa.columns: found no file named w.csv; there are x.jsonl"):
        prepare_pdf_qa(settings_for(*files, columns={"w.csv": ASKED}), workspace)


def test_the_input_of_a_question_keeps_rows_apart_and_is_said(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts_given = ["회의는 오전 열 시에 시작합니다.", "창구는 점심에도 열려 있습니다.", "주차는 한 시간까지 무료입니다"]
    rows = [{"instruction": "다음 문장을 영어로 번역하세요.", "input": text, "output": f"Sentence {n}."}
            for n, text in enumerate(texts_given)]  # fmt: skip
    prepare_pdf_qa(settings_for(write_rows(workspace / "alpaca.jsonl", rows), held_out_facts=0.0), workspace)
    asked = [texts(row)["instruction"] for row in kept_rows().values()]
    assert sorted(asked) == sorted(f"{rows[0]['instruction']}\n\n{text}" for text in texts_given)
    said = "alpaca.jsonl: read instruction as question, input as input, output as answer."
    assert said in capsys.readouterr().out and said in (OUT / "DATA_CARD.md").read_text(encoding="utf-8")


def test_equal_fact_ids_of_two_files_are_two_facts_on_one_side(workspace: Path) -> None:
    rows = [[{"fact_id": fact, "id": fact, "instruction": f"{place} {fact}번 {word}", "output": f"{place}입니다."}
             for fact in range(20) for word in ("창구는 어디인가요?", "창구의 위치를 알려 주세요.")]
            for place in ("가 부서", "나 회사")]  # fmt: skip
    files = [write_rows(workspace / f"{name}.jsonl", part) for name, part in zip("ab", rows, strict=True)]
    prepare_pdf_qa(settings_for(*files), workspace)
    report = json.loads((OUT / "data_report.json").read_text(encoding="utf-8"))
    splits = {name: list(read_jsonl(OUT / f"{name}.jsonl")) for name in SPLITS}
    facts = {name: {row["fact_id"] for row in part} for name, part in splits.items()}
    assert report["kept"] == 80 and report["told_apart"] == 20
    assert len(facts["train"] | facts["unseen"]) == 40 and facts["seen"] <= facts["train"]
    assert {fact.removeprefix("b.jsonl:") for fact in facts["unseen"] if fact.startswith("b")} == {
        fact for fact in facts["unseen"] if not fact.startswith("b")
    }
    assert "20 fact_ids are in more than one file" in (OUT / "DATA_CARD.md").read_text(encoding="utf-8")
    alone = workspace / "alone"
    prepare_pdf_qa(settings_for(files[0]), alone)
    trained = [texts(row)["instruction"] for row in splits["train"]]
    assert all(texts(row)["instruction"] in trained for row in read_jsonl(alone / OUT / "train.jsonl"))


def test_files_of_one_name_in_two_folders_have_rows_of_their_own(workspace: Path) -> None:
    files = []
    for folder in ("2030", "2031"):
        (workspace / folder).mkdir()
        rows = [{"instruction": f"{folder}년 접수는 언제인가요?", "output": f"{folder}년 3월입니다."}]
        files.append(write_rows(workspace / folder / "faq.jsonl", rows))
    prepare_pdf_qa(settings_for(*files, held_out_facts=0.0), workspace)
    assert list(kept_rows()) == ["2030/faq.jsonl:1", "2031/faq.jsonl:1"]
    assert next(iter(kept_rows().values()))["source"] == {"file": "2030/faq.jsonl", "line": 1}


@pytest.mark.parametrize("field", [{"answerable": "false"}, {"answerable": 1}, {"key": "여권"}, {"fact_id": 1.5}])
def test_no_type_is_guessed(workspace: Path, field: dict[str, Any]) -> None:
    rows = [{"instruction": "언제 쉬나요?", "output": "월요일입니다."} | field, TRAINED]
    prepare_pdf_qa(settings_for(write_rows(workspace / "faq.jsonl", rows)), workspace)
    (reject,) = read_jsonl(OUT / "rejects.jsonl")
    assert reject["reason"] == "wrong_type" and next(iter(field)) in reject["detail"]


def test_nothing_to_train_on_stops_the_stage(workspace: Path) -> None:
    held_out = TRAINED | {"fact_id": fact_that_is(True, "held")}
    file = write_rows(workspace / "faq.jsonl", [held_out, {"instruction": "언제?", "output": "월요일입니다."}])
    said = r"found no row to train on.*2 read, 1 held out.*1 question_too_short\n.*faq.jsonl:2: question_too_short"
    with pytest.raises(UserError, match=said):
        prepare_pdf_qa(settings_for(file), workspace)
    assert not OUT.exists()


def test_the_card_tells_of_rows_too_long_for_training(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = {"instruction": "민원 서류는 어떻게 내나요?", "output": "창구에 냅니다. " * 90}
    file = write_rows(workspace / "faq.jsonl", [TRAINED, long])
    prepare_pdf_qa(settings_for(file, max_tokens=512), workspace)
    card = (OUT / "DATA_CARD.md").read_text(encoding="utf-8")
    assert "1 of 2 rows are longer than prepare_pdf_qa.max_tokens = 512" in card
    said = "2 rows read = 1 kept + 1 dropped (1 too_long_tokens); look at data/prepared/pdf_qa/DATA_CARD.md"
    assert capsys.readouterr().out.strip() == said


NEAR = [
    ("반딧불도서관은 매월 몇째 주 무슨 요일에 문을 열지 않고 하루를 쉬나요?", "매월 셋째 화요일에 쉽니다."),
    ("반딧불도서관은 매월 몇째 주 무슨 요일에 문을 열지 않고 하루를 쉬나여?", "매월 셋째 화요일에 쉽니다."),
]


def near_rows(*facts: str) -> list[dict[str, Any]]:
    return [{"fact_id": fact, "instruction": q, "output": a} for fact, (q, a) in zip(facts, NEAR, strict=True)]


def test_a_near_duplicate_across_train_and_evaluation_stops_the_stage(workspace: Path) -> None:
    file = write_rows(workspace / "faq.jsonl", near_rows(fact_that_is(False, "trained"), fact_that_is(True, "held")))
    with pytest.raises(
        UserError, match=r"faq.jsonl:1 \(train: .*쉬나요\?\) is nearly .*faq.jsonl:2 \(unseen: .*쉬나여\?\)"
    ):
        prepare_pdf_qa(settings_for(file), workspace)


def test_a_near_duplicate_within_one_side_stays(workspace: Path) -> None:
    file = write_rows(workspace / "faq.jsonl", near_rows(fact_that_is(False, "one"), fact_that_is(False, "other")))
    prepare_pdf_qa(settings_for(file), workspace)
    assert len(kept_rows()) == 2


def test_a_question_with_other_spacing_is_one_row_whatever_its_fact(workspace: Path) -> None:
    rows = [
        {
            "fact_id": fact_that_is(False, "trained"),
            "instruction": "도서관은 언제 쉬나요?",
            "output": "월요일에 쉽니다.",
        },
        {"fact_id": fact_that_is(True, "held"), "instruction": "도서관은  언제 쉬나요?", "output": "화요일에 쉽니다."},
    ]
    file = write_rows(workspace / "faq.jsonl", rows)
    prepare_pdf_qa(settings_for(file, conflicts=Conflicts.keep_first), workspace)
    assert len(kept_rows()) == 1


def test_rows_without_fact_are_their_own_whatever_their_id(workspace: Path) -> None:
    asked = [f"{n}번 창구 담당은 누구인가요?" for n in range(20)]
    rows = [{"id": "1", "instruction": question, "output": f"{n}번 담당"} for n, question in enumerate(asked)]
    prepare_pdf_qa(settings_for(write_rows(workspace / "a.jsonl", rows)), workspace / "one")
    later = [{"instruction": row["instruction"], "output": row["output"]} for row in [TRAINED, *rows]]
    prepare_pdf_qa(settings_for(write_rows(workspace / "b.jsonl", later)), workspace / "other")
    splits = []
    for root in ("one", "other"):
        report = json.loads((workspace / root / OUT / "data_report.json").read_text(encoding="utf-8"))
        assert report["splits"]["seen"]["rows"] == 0  # no two of them are wordings of one fact
        unseen = {texts(row)["instruction"] for row in read_jsonl(workspace / root / OUT / "unseen.jsonl")}
        splits.append(unseen & set(asked))
    assert splits[0] == splits[1] != set()  # one more line above them moves none


def test_added_rows_move_no_others(workspace: Path) -> None:
    rows = [
        {"fact_id": f"window-{n}", "id": f"{n}-{w}", "instruction": f"{n}번 창구 {w}시 담당은?", "output": f"{n}번",
         "answerable": n % 2 == 0}
        for n in range(60) for w in range(3)
    ]  # fmt: skip
    prepare_pdf_qa(settings_for(write_rows(workspace / "a.jsonl", rows[:120])), workspace / "less")
    prepare_pdf_qa(settings_for(write_rows(workspace / "b.jsonl", rows)), workspace / "more")
    for name in SPLITS:
        less = [row["id"] for row in read_jsonl(workspace / "less" / OUT / f"{name}.jsonl")]
        more = [row["id"] for row in read_jsonl(workspace / "more" / OUT / f"{name}.jsonl")]
        assert less and more[: len(less)] == less


def test_a_question_without_an_answer_is_held_out_whole_or_trained_whole(workspace: Path) -> None:
    """Refusals are scored on topics that training never saw, and no more than half of a fact's wordings are kept."""
    rows = [
        {"fact_id": f"fact-{n}", "id": f"{n}-{w}", "instruction": f"{n}번 창구 {w}시 담당은?", "output": f"{n}번",
         "answerable": n % 2 == 0}
        for n in range(60) for w in range(4)
    ]  # fmt: skip
    prepare_pdf_qa(settings_for(write_rows(workspace / "a.jsonl", rows), held_out_wordings=3), workspace)
    facts = {name: Counter(row["fact_id"] for row in read_jsonl(OUT / f"{name}.jsonl")) for name in SPLITS}
    odd = {name: {fact for fact in facts[name] if int(fact.split("-")[1]) % 2} for name in SPLITS}
    assert not odd["seen"] and not odd["unseen"] and odd["unanswerable"] == set(facts["unanswerable"])
    assert odd["unanswerable"] and odd["train"] and not odd["unanswerable"] & odd["train"]
    assert set(facts["seen"].values()) == {2} and set(facts["unseen"].values()) == {4}
    assert {facts["train"][fact] for fact in odd["train"]} == {4}


def test_twice_gives_the_same_bytes(workspace: Path) -> None:
    for root in ("one", "two"):
        prepare_pdf_qa(settings_for(DIRTY / "pdf_qa_dirty.jsonl"), workspace / root)
    files = {path.relative_to(workspace / "one") for path in (workspace / "one").rglob("*") if path.is_file()}
    assert len(files) == 12
    assert all((workspace / "one" / file).read_bytes() == (workspace / "two" / file).read_bytes() for file in files)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
row_values = st.fixed_dictionaries(
    {"instruction": st.text() | json_values, "output": st.text() | json_values},
    optional={
        "input": json_values,
        "messages": json_values,
        "text": json_values,
        "비고": json_values,
        "id": json_values,
        "fact_id": json_values,
        "key": json_values,
        "answerable": json_values,
        "source": json_values,
    },
)
lines = st.one_of(
    row_values.map(lambda row: json.dumps(row, ensure_ascii=False)),
    row_values.map(json.dumps),
    json_values.map(json.dumps),
    st.text(),
    st.just('{"instruction": "같은 질문은 무엇인가요?", "output": "같은 답입니다."}'),
)
files = st.one_of(
    st.binary(max_size=300),
    st.lists(lines, max_size=12).map(lambda parts: "\n".join(parts).encode("utf-8", "surrogatepass")),
    st.lists(lines, max_size=6).map(lambda parts: "\n".join(parts).encode("utf-16", "surrogatepass")),
)


@given(content=files, ending=st.sampled_from([".jsonl", ".json", ".csv", ".jsonl.gz"]))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_in_is_kept_or_counted(workspace: Path, content: bytes, ending: str) -> None:
    path = workspace / f"any{ending}"
    path.write_bytes(gzip.compress(content) if ending == ".jsonl.gz" else content)
    trained = write_rows(workspace / "trained.jsonl", [TRAINED])
    try:
        prepare_pdf_qa(settings_for(trained, path), workspace)
    except UserError as error:
        assert path.name in str(error)
        return
    report = json.loads((OUT / "data_report.json").read_text(encoding="utf-8"))
    splits = [row for name in SPLITS for row in read_jsonl(OUT / f"{name}.jsonl")]
    rejects = list(read_jsonl(OUT / "rejects.jsonl"))
    assert report["in"] == report["kept"] + sum(report["dropped"].values()) == len(splits) + len(rejects)
    assert all(text.strip() for row in splits for text in texts(row).values())


cells = st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
typed_rows = st.lists(
    st.fixed_dictionaries({"instruction": cells, "output": cells, "fact_id": cells, "비고": st.none()}),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".xlsx"])
@given(rows=typed_rows)
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_in_by_a_typed_format_is_kept_or_counted(
    workspace: Path, ending: str, rows: list[dict[str, Any]]
) -> None:
    if ending == ".xlsx":
        pytest.importorskip("openpyxl")
        rows = [row for row in rows if any(str(value).strip() for value in row.values() if value)]
    path = workspace / f"any{ending}"
    row_files.write(path, [*rows, TRAINED | {"fact_id": "trained", "비고": None}])
    try:
        prepare_pdf_qa(settings_for(path), workspace)
    except UserError as error:
        assert path.name in str(error)
        return
    report = json.loads((OUT / "data_report.json").read_text(encoding="utf-8"))
    splits = sum(1 for name in SPLITS for _ in read_jsonl(OUT / f"{name}.jsonl"))
    rejects = list(read_jsonl(OUT / "rejects.jsonl"))
    assert len(rows) + 1 == report["in"] == report["kept"] + sum(report["dropped"].values()) == splits + len(rejects)


# ---- what people decided ----

CLEAR = [{"id": f"row-{n}", "fact_id": fact_that_is(False, f"fact-{n}"), "instruction": f"{n}번 창구는 어디인가요?",
          "output": f"{n}번 창구는 {n}층입니다."} for n in range(4)]  # fmt: skip
DANGLING = {"id": "that", "fact_id": fact_that_is(False, "that"), "instruction": "그것은 언제 하나요?",
            "output": "월요일에 합니다."}  # fmt: skip


def decided(kind: str, row: dict[str, Any], question: str = "", answer: str = "") -> None:
    """Append a decision on a row's words, as tools/review does."""
    line = Decision(id=f"{kind}-{row['id']}", decision=kind, row=row["id"], question=row["instruction"],
                    answer=row["output"], new_question=question, new_answer=answer, time="2026-11-26T00:00:00Z")  # type: ignore[arg-type] # fmt: skip
    append(line, DECISIONS, "decision")


def report_of(section: PreparePdfQa, workspace: Path) -> dict[str, Any]:
    """Run the stage; its report, which accounts for every row."""
    prepare_pdf_qa(section, workspace)
    report = json.loads((OUT / "data_report.json").read_text(encoding="utf-8"))
    assert report["in"] == report["kept"] + sum(report["dropped"].values())
    assert len(kept_rows()) == report["kept"]
    return report


def test_decisions_are_applied_and_counted(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    section = settings_for(write_rows(workspace / "faq.jsonl", [*CLEAR, DANGLING]))
    before = report_of(section, workspace)
    assert before["dropped"] == {"dangling_reference": 1} and "review" not in before
    reject = next(iter(read_jsonl(OUT / "rejects.jsonl")))
    assert reject["row"]["question"] == DANGLING["instruction"] and reject["row"]["answer"] == DANGLING["output"]
    decided("reject", CLEAR[0])
    decided("edit", CLEAR[1], "1번 창구는 몇 층인가요?", "1번 창구는 5층입니다.")
    decided("accept", CLEAR[2])
    decided("accept", DANGLING)
    capsys.readouterr()
    report = report_of(section, workspace)
    rows = kept_rows()
    assert set(rows) == {"row-1", "row-2", "row-3", "that"}
    assert texts(rows["row-1"]) == {"instruction": "1번 창구는 몇 층인가요?", "output": "1번 창구는 5층입니다."}
    assert rows["row-1"]["fact_id"] == CLEAR[1]["fact_id"]  # an edit moves no row between the splits
    assert [rows[name]["source"].get("review") for name in ("row-1", "row-2", "row-3")] == ["edit", "accept", None]
    assert report["dropped"] == {"rejected_in_review": 1}
    assert report["review"]["applied"] == {"accept": 2, "edit": 1, "reject": 1}
    funnel = (workspace / "metrics/data_pdf_qa_funnel.csv").read_text(encoding="utf-8")
    assert "clear,5\nnot rejected by people,4\n" in funnel
    said = "4 decisions of a review; rows that they were applied to: 2 accept, 1 edit, 1 reject."
    assert said in (OUT / "DATA_CARD.md").read_text(encoding="utf-8") and said in capsys.readouterr().out


def test_a_rejected_dropped_row_stays_dropped_for_its_reason(workspace: Path) -> None:
    decided("reject", DANGLING)
    report = report_of(settings_for(write_rows(workspace / "faq.jsonl", [*CLEAR, DANGLING])), workspace)
    assert report["dropped"] == {"dangling_reference": 1} and report["review"]["applied"] == {"reject": 1}


def test_a_decision_on_a_row_that_changed_is_told_and_not_applied(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decided("reject", CLEAR[0])
    changed = [CLEAR[0] | {"output": "0번 창구는 7층입니다."}, *CLEAR[1:3]]
    report = report_of(settings_for(write_rows(workspace / "faq.jsonl", changed)), workspace)
    assert texts(kept_rows()["row-0"])["output"] == "0번 창구는 7층입니다."
    assert report["review"]["changed"] == ["row-0"] and report["review"]["applied"] == {}
    assert "weren't applied, since the row's text has changed: look at it again: row-0" in capsys.readouterr().out


def test_a_decision_follows_its_row_to_another_line_and_file(workspace: Path) -> None:
    nameless = [{name: row[name] for name in ("instruction", "output")} for row in CLEAR]
    section = settings_for(write_rows(workspace / "faq.jsonl", nameless), held_out_facts=0.0)
    assert "faq.jsonl:1" in (report_of(section, workspace) and kept_rows())
    decided("reject", CLEAR[0] | {"id": "faq.jsonl:1"})
    moved = write_rows(workspace / "moved.jsonl", [CLEAR[3], *nameless[1:3], nameless[0]])
    report_of(settings_for(moved, held_out_facts=0.0), workspace)
    assert CLEAR[0]["instruction"] not in [texts(row)["instruction"] for row in kept_rows().values()]


@pytest.mark.parametrize(
    ("row", "reason", "changes"),
    [
        (near_rows("near", "near")[1] | {"id": "near"}, "near_duplicate", {}),
        (CLEAR[0] | {"id": "long", "output": "창구에 냅니다." * 90}, "too_long_tokens", {"max_tokens": 512}),
        (CLEAR[0] | {"id": "pii", "instruction": "담당자 번호는 무엇인가요?", "output": "010-1234-5678입니다."}, "pii",
         {"personal_data": PersonalData.drop}),
    ],
)  # fmt: skip
def test_a_gate_that_nobody_overrules_stops_an_accepted_row_and_says_so(
    workspace: Path, row: dict[str, Any], reason: str, changes: dict[str, Any]
) -> None:
    decided("accept", row)
    rows = [*CLEAR, near_rows("near", "near")[0], row]
    report = report_of(settings_for(write_rows(workspace / "faq.jsonl", rows), **changes), workspace)
    assert report["dropped"] == {reason: 1} and row["id"] not in kept_rows()
    (stopped,) = report["review"]["stopped"]
    assert stopped.startswith(f"{row['id']} ({reason}: ")


def test_the_double_of_an_accepted_row_is_one_row_and_no_complaint(workspace: Path) -> None:
    decided("accept", CLEAR[0])
    rows = [*CLEAR, CLEAR[0] | {"id": "again"}]
    report = report_of(settings_for(write_rows(workspace / "faq.jsonl", rows)), workspace)
    assert report["dropped"] == {"exact_duplicate": 1} and report["review"]["stopped"] == []


def test_an_accepted_answer_ends_a_conflict(workspace: Path) -> None:
    other = CLEAR[0] | {"id": "other", "output": "0번 창구는 지하에 있습니다."}
    section = settings_for(write_rows(workspace / "faq.jsonl", [*CLEAR, other]))
    assert report_of(section, workspace)["dropped"] == {"conflict": 2}
    decided("accept", other)
    assert report_of(section, workspace)["dropped"] == {"conflict": 1}
    assert "other" in kept_rows() and "row-0" not in kept_rows()
    decided("accept", CLEAR[0])  # two people, two answers
    assert report_of(section, workspace)["dropped"] == {"conflict": 2}


def test_an_edit_that_says_what_another_row_does_is_one_row(workspace: Path) -> None:
    decided("edit", CLEAR[0], CLEAR[1]["instruction"], CLEAR[1]["output"])
    report = report_of(settings_for(write_rows(workspace / "faq.jsonl", CLEAR)), workspace)
    assert report["dropped"] == {"exact_duplicate": 1}


def test_only_reviewed_rows_are_trained_on_if_asked(workspace: Path) -> None:
    decided("accept", CLEAR[0])
    decided("edit", CLEAR[1], CLEAR[1]["instruction"], "1번 창구는 5층입니다.")
    section = settings_for(write_rows(workspace / "faq.jsonl", CLEAR), only_reviewed=True)
    assert report_of(section, workspace)["dropped"] == {"not_reviewed": 2}
    assert set(kept_rows()) == {"row-0", "row-1"}


def test_a_rejected_rewording_is_not_trained_on(workspace: Path) -> None:
    section = settings_for(write_rows(workspace / "faq.jsonl", CLEAR), reword=Reword(Rewording.templates))
    prepare_pdf_qa(section, workspace)
    reworded = [row for row in read_jsonl(OUT / "train.jsonl") if row.get("reworded")]
    assert len(reworded) == 4
    words = texts(reworded[0])
    decided("reject", {"id": reworded[0]["id"], **words})
    decided("edit", {"id": reworded[1]["id"], **texts(reworded[1])}, "1번 창구의 위치는 어디죠?", "5층입니다.")
    prepare_pdf_qa(section, workspace)
    rows = {row["id"]: row for row in read_jsonl(OUT / "train.jsonl")}
    assert reworded[0]["id"] not in rows
    assert texts(rows[reworded[1]["id"]])["output"] == "5층입니다."
    report = json.loads((OUT / "data_report.json").read_text(encoding="utf-8"))
    assert report["reworded"]["rejected_in_review"] == 1 and report["review"]["gone"] == []
