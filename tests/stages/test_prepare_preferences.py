"""The notebook's filter, the real set's defects, and no pair that asks what evaluation asks."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import read_jsonl, write_jsonl
from stages.lib.schema.choices import PairSource, RowSource
from stages.lib.schema.data import PreparePreferences, Rows
from stages.prepare_preferences import prepare_preferences
from tests.ballots import vote
from tests.byte_tokenizer import write_byte_tokenizer
from tests.row_files import write

OUT = Path("data/prepared/preferences")
SHIPPED = Path(__file__).parents[2] / "data/raw/preferences/preferences.jsonl"
ASKED = "반딧불도서관은 매월 몇째 주 무슨 요일에 문을 열지 않고 하루를 쉬나요?"

UNANSWERED = "반딧불도서관 지붕을 덮은 기와는 모두 몇 장이며 누가 어느 해에 얹었나요?"


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_byte_tokenizer(tmp_path / "models/base")
    pdf_qa = tmp_path / "data/prepared/pdf_qa"
    pdf_qa.mkdir(parents=True)
    asked = {"id": "library-2", "messages": [{"role": "user", "content": ASKED}]}
    write_jsonl(pdf_qa / "seen.jsonl", [asked])
    write_jsonl(pdf_qa / "unseen.jsonl", [])
    refused = {"id": "none-1", "messages": [{"role": "user", "content": UNANSWERED}]}
    write_jsonl(pdf_qa / "unanswerable.jsonl", [refused])
    return tmp_path


def pair(**changes: Any) -> dict[str, Any]:
    return {
        "system": "", "input": "What is a tide?", "chosen": "The sea's rise and fall.", "rejected": "A wave.",
        "status": "unchanged", "chosen_score": 9.0, "in_gsm8k_train": False,
    } | changes  # fmt: skip


def prepare(root: Path, rows: list[Any], **changes: Any) -> dict[str, Any]:
    write_jsonl(root / "pairs.jsonl", rows)
    section = {"rows": Rows(source=RowSource.jsonl, path=str(root / "pairs.jsonl")), "max_reject_rate": 1.0} | changes
    prepare_preferences(PreparePreferences(**section), root)
    return json.loads((OUT / "data_report.json").read_text(encoding="utf-8"))


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a text", "wrong_type"),
        (without(pair(), "rejected"), "missing_field"),
        (pair(input=None), "wrong_type"),
        (pair(chosen_score="9"), "wrong_type"),
        (pair(status="tie"), "tie"),
        (pair(chosen_score=None), "no_score"),
        (without(pair(), "chosen_score"), "no_score"),
        (pair(chosen_score=7.5), "low_score"),
        (pair(in_gsm8k_train=True), "in_gsm8k_train"),
        (pair(chosen=" "), "blank_content"),
        (pair(rejected="The sea's rise and fall. "), "equal_answers"),
        (pair(chosen="Half \ufffd of it."), "mojibake"),
        (pair(input="Why is it?", chosen="Another."), "duplicate_prompt"),
    ],
)
def test_each_defect_has_its_reason(workspace: Path, row: Any, reason: str) -> None:
    report = prepare(workspace, [pair(input="Why is  it"), row])
    assert report["dropped"] == {reason: 1} and report["in"] == 2 and report["kept"] == 1


def test_unrated_pairs_need_no_columns_of_the_judge(workspace: Path) -> None:
    row = without(pair(), "system", "status", "chosen_score", "in_gsm8k_train")
    assert prepare(workspace, [row], min_chosen_score=0.0)["kept"] == 1


def test_the_shipped_pairs_lose_the_24_that_the_filter_names(workspace: Path) -> None:
    rows = Rows(source=RowSource.jsonl, path=str(SHIPPED))
    prepare_preferences(PreparePreferences(rows=rows), workspace)
    report = json.loads((OUT / "data_report.json").read_text(encoding="utf-8"))
    assert report["dropped"] == {"tie": 10, "low_score": 6, "no_score": 4, "in_gsm8k_train": 4}
    assert report["kept"] == 398


@pytest.mark.parametrize("question", [ASKED, ASKED.replace(" ", "  ").rstrip("?"), ASKED.replace("쉬나요", "쉬나여")])
def test_a_pair_that_asks_an_evaluation_question_stops_the_stage(workspace: Path, question: str) -> None:
    with pytest.raises(UserError, match=r"pairs.jsonl:2 .*seen library-2"):
        prepare(workspace, [pair(), pair(input=question)])
    assert not OUT.exists()


def test_a_pair_that_asks_an_unanswerable_evaluation_question_stops_the_stage(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"pairs.jsonl:1 .*unanswerable none-1"):
        prepare(workspace, [pair(input=UNANSWERED)])


def test_the_system_message_is_part_of_the_prompt(workspace: Path) -> None:
    prepare(workspace, [pair(), pair(system="Be brief.")], held_out_pairs=0.001)
    prompts = [row["prompt"] for row in read_jsonl(OUT / "train.jsonl")]
    assert [len(prompt) for prompt in prompts] == [1, 2] and prompts[1][0] == {"role": "system", "content": "Be brief."}


def test_nothing_to_train_on_stops_the_stage(workspace: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"found no row to train on.*dropped: 1 low_score\n.*\n.*lower prepare_preferences.min_chosen_score",
    ):
        prepare(workspace, [pair(chosen_score=7.5)])


def test_one_question_under_two_system_messages_stays_on_one_side(workspace: Path) -> None:
    rows = [pair(system=system, input=f"What is {n}?") for n in range(30) for system in ("", "Be brief.", "Be kind.")]
    prepare(workspace, rows)
    asked = {
        split: {row["prompt"][-1]["content"] for row in read_jsonl(OUT / f"{split}.jsonl")}
        for split in ("train", "evaluation")
    }
    assert asked["train"] and asked["evaluation"] and not asked["train"] & asked["evaluation"]


def voted(*votes: dict[str, Any]) -> None:
    Path("data/raw/votes").mkdir(parents=True, exist_ok=True)
    write_jsonl(Path("data/raw/votes/votes.jsonl"), votes)


def test_votes_join_the_pairs_and_every_one_is_counted(workspace: Path) -> None:
    voted(vote(1), vote(1, id="again"), vote(2, verdict="tie"), vote(3, question=ASKED), vote(4))
    report = prepare(workspace, [pair()], held_out_pairs=0.001)
    assert report["in"] == 6 and report["kept"] == 3
    assert report["dropped"] == {"duplicate_vote": 1, "vote_on_evaluation_question": 1, "vote_tie": 1}
    assert [(source["name"], source["rows"]) for source in report["sources"]] == [
        ("pairs.jsonl", 1),
        ("votes.jsonl", 5),
    ]
    rows = list(read_jsonl(OUT / "train.jsonl"))
    assert [row["source"] for row in rows] == ["rows", "votes", "votes"]
    assert rows[1]["prompt"] == [{"role": "user", "content": "1번 창구는 어디인가요?"}]
    assert (rows[1]["chosen"], rows[1]["rejected"]) == ("1층입니다.", "I like windows.")
    assert "| votes.jsonl | 5 |" in (OUT / "DATA_CARD.md").read_text(encoding="utf-8")


def test_a_source_that_is_not_asked_for_is_not_read(workspace: Path) -> None:
    voted(vote(1), vote(2))
    assert prepare(workspace, [pair()], sources=[PairSource.rows])["in"] == 1
    alone = prepare(workspace, [pair()], sources=[PairSource.votes], held_out_pairs=0.001)
    assert (alone["in"], alone["kept"]) == (2, 2)
    assert [source["name"] for source in alone["sources"]] == ["votes.jsonl"]


def test_without_votes_nothing_is_other_than_it_was(workspace: Path) -> None:
    before = prepare(workspace, [pair()], sources=[PairSource.rows])
    assert prepare(workspace, [pair()]) == before


@pytest.mark.parametrize("ending", [".json", ".csv", ".jsonl.gz", ".parquet"])
def test_pairs_of_another_format_and_shape_are_read_and_counted(workspace: Path, ending: str) -> None:
    rows = [
        {
            "prompt": f"{n}번 창구는 어디인가요?",
            "chosen": f"{n}층입니다.",
            "rejected": "모릅니다.",
            "score_chosen": n / 2,
        }
        for n in range(21)
    ]
    path = write(workspace / f"pairs{ending}", rows)
    report = prepare_from(path)
    assert (report["in"], report["kept"], report["dropped"]) == (21, 5, {"low_score": 16})
    assert "prompt as question" in report["sources"][0]["read_as"]
    asked = [row["prompt"][0]["content"] for row in read_jsonl(OUT / "train.jsonl")]
    assert set(asked) <= {row["prompt"] for row in rows[16:]}


def test_a_shuffle_takes_the_same_rows_of_every_format(workspace: Path) -> None:
    rows = [pair(input=f"Where is window {n}?") for n in range(30)]
    found = []
    for ending in (".jsonl", ".csv", ".json"):
        prepare_from(write(workspace / f"pairs{ending}", rows), shuffle_seed=1, take=10)
        found.append((OUT / "train.jsonl").read_bytes())
    assert found[0] == found[1] == found[2]


def test_a_pairs_column_that_nothing_reads_is_refused_by_name(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"unread_field: 'hint' holds .*prepare_preferences.rows.columns"):
        prepare(workspace, [pair(hint="By the sea.")], max_reject_rate=0.0)
    rows = Rows(source=RowSource.jsonl, path=str(workspace / "pairs.jsonl"), columns={"hint": "ignore"})
    prepare_preferences(PreparePreferences(rows=rows), workspace)
    assert len(list(read_jsonl(OUT / "train.jsonl"))) == 1


def prepare_from(path: Path, **chosen: Any) -> dict[str, Any]:
    rows = Rows(source=RowSource.jsonl, path=str(path), **chosen)
    prepare_preferences(PreparePreferences(rows=rows, held_out_pairs=0.001, max_reject_rate=1.0), Path())
    return json.loads((OUT / "data_report.json").read_text(encoding="utf-8"))


def test_no_source_at_all_is_refused() -> None:
    with pytest.raises(UserError, match=r"prepare_preferences.sources: found \[\], needed rows, votes or both"):
        PreparePreferences(rows=Rows(source=RowSource.jsonl, path="a"), sources=[])


answers = st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
any_pairs = st.lists(
    st.fixed_dictionaries(
        {"system": answers, "input": answers, "chosen": answers, "rejected": answers,
         "status": st.sampled_from(["unchanged", "tie", "swapped"]) | st.none(),
         "chosen_score": st.none() | st.floats(0, 10), "in_gsm8k_train": st.booleans()}
    ),
    max_size=8,
)  # fmt: skip


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".arrow"])
@given(rows=any_pairs)
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_in_is_kept_or_counted(workspace: Path, ending: str, rows: list[dict[str, Any]]) -> None:
    # two pairs that are always kept: without one for each side the stage doesn't go on
    kept = [pair(input=f"Where is the window for {matter}?") for matter in ("passports", "stray dogs", "parking")]
    try:
        report = prepare_from(write(workspace / f"pairs{ending}", [*rows, *kept]))
    except UserError as error:
        assert f"pairs{ending}" in str(error) or "nothing left" in str(error)
        return
    splits = sum(1 for name in ("train", "evaluation") for _ in read_jsonl(OUT / f"{name}.jsonl"))
    assert len(rows) + 3 == report["in"] == report["kept"] + sum(report["dropped"].values())
    assert splits == report["kept"]


def test_votes_on_one_answer_are_ktos_rows_and_each_is_counted(workspace: Path) -> None:
    votes = workspace / "data/raw/votes"
    votes.mkdir(parents=True)
    rows = [pair(input=f"What is number {number}?") for number in range(40)]
    prepare(workspace, rows)
    held_out = next(read_jsonl(OUT / "evaluation.jsonl"))["prompt"][-1]["content"]
    good = {"prompt": "What is a tide?", "completion": "The sea's rise.", "label": True}
    bad = {**good, "completion": "A wave.", "label": False}
    lines = [good, bad, {**good, "prompt": held_out}, {**good, "prompt": ASKED}, {"prompt": "?"}]
    write_jsonl(votes / "unpaired.jsonl", lines)
    report = prepare(workspace, rows)
    assert [(row["completion"], row["label"]) for row in read_jsonl(OUT / "unpaired.jsonl")] == [
        ("The sea's rise.", True), ("A wave.", False)
    ]  # fmt: skip
    assert report["dropped"] == {"missing_field": 1, "vote_on_evaluation_question": 1, "vote_on_held_out_pair": 1}
    assert report["splits"]["unpaired"] == {"rows": 2}
    assert (report["in"], report["kept"]) == (45, 42)
    assert [source["rows"] for source in report["sources"]] == [40, 5]
    rejects = list(read_jsonl(OUT / "rejects.jsonl"))
    assert any(reject["where"] == "data/raw/votes/unpaired.jsonl:5" for reject in rejects)
    prepare(workspace, rows, sources=[PairSource.rows])
    assert list(read_jsonl(OUT / "unpaired.jsonl")) == []
