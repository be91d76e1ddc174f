"""Each malformed chat has its reason code, over-long ones lose whole turns, and no evaluation chat is trained on."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import read_jsonl
from stages.lib.schema.choices import Overlap, RowSource
from stages.lib.schema.data import PrepareUltrachat, Rows
from stages.prepare_ultrachat import prepare_ultrachat
from tests import row_files
from tests.byte_tokenizer import write_byte_tokenizer

OUT = Path("data/prepared/ultrachat")
HELD_OUT = "Which evaluation question is this one here, please tell me now, and why does nobody train on it?"


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_byte_tokenizer(tmp_path / "models/base")
    return tmp_path


def chat(*texts: str, roles: str = "uauauaua", **columns: Any) -> dict[str, Any]:
    names = {"s": "system", "u": "user", "a": "assistant", "x": "robot"}
    messages = [{"role": names[role], "content": text} for role, text in zip(roles, texts, strict=False)]
    return {"messages": messages} | columns


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def prepare(root: Path, rows: list[Any], **changes: Any) -> dict[str, Any]:
    """Run the stage on `rows` for training and one evaluation chat; return its report."""
    train = Rows(source=RowSource.jsonl, path=write(root / "train.jsonl", rows))
    evaluation = Rows(
        source=RowSource.jsonl, path=write(root / "evaluation.jsonl", [chat(HELD_OUT, "Yes.", prompt_id="held")])
    )
    prepare_ultrachat(
        PrepareUltrachat(train={"en": train}, evaluation={"en": evaluation}, max_reject_rate=1.0, **changes), root
    )
    return json.loads((OUT / "data_report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([], "wrong_type"),
        ({"prompt": "Hello there"}, "missing_field"),
        ({"messages": "Hello"}, "wrong_type"),
        ({"messages": [{"role": "user", "content": None}]}, "wrong_type"),
        ({"messages": []}, "no_answer"),
        (chat("Hello?", "I am.", roles="ux"), "unknown_role"),
        (chat("Hello?", "Hi.", "Be brief.", "Bye.", roles="uasa"), "system_not_first"),
        (chat("Be brief.", "Be kind.", "Hi?", "Hi.", roles="ssua"), "system_not_first"),
        (chat("Hello?", "And you?", "Hi.", roles="uua"), "turns_do_not_alternate"),
        (chat("Hi.", "Hello?", "Hi.", roles="aua"), "turns_do_not_alternate"),
        (chat("Hello?", " \u200b "), "blank_content"),
        (chat(" ", "Hi."), "blank_content"),
        (chat("Hello?", "Hi.", prompt="Goodbye?"), "prompt_differs"),
        (chat("What is a tide?", "Another answer.", prompt_id="other"), "duplicate_prompt"),
        (chat("what is  a tide", "Another answer.", prompt_id="other"), "duplicate_prompt"),
        (chat("What is a wave?", "A rise.", prompt_id="tide"), "duplicate_prompt_id"),
        (chat("What is it?", "Half \ufffd of it."), "mojibake"),
        (chat("x" * 300, "Too long an exchange."), "too_long_tokens"),
    ],
)
def test_each_defect_has_its_reason(workspace: Path, row: Any, reason: str) -> None:
    good = chat("What is a tide?", "The sea's rise and fall.", prompt_id="tide")
    report = prepare(workspace, [good, row], max_tokens=250)
    assert report["dropped"] == {reason: 1}
    assert report["in"] == 3 and report["kept"] == 2
    (reject,) = read_jsonl(OUT / "rejects.jsonl")
    assert reject["where"].endswith("train.jsonl:2") and reject["reason"] == reason


def test_an_unanswered_tail_is_dropped_and_counted(workspace: Path) -> None:
    report = prepare(workspace, [chat("What is a tide?", "The sea's rise.", "And then?")])
    (row,) = read_jsonl(OUT / "train.jsonl")
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    assert report["fixed"] == {"unanswered_tail": 1}


@pytest.mark.parametrize("roles", ["uauaua", "suauaua"])
def test_long_chats_are_truncated_between_exchanges(workspace: Path, roles: str) -> None:
    texts = [f"turn {n} " + "x" * 40 for n in range(len(roles))]
    report = prepare(workspace, [chat(*texts, roles=roles)], max_tokens=300)
    (row,) = read_jsonl(OUT / "train.jsonl")
    kept = len(roles) - 2
    assert [message["content"] for message in row["messages"]] == texts[:kept]
    assert report["fixed"] == {"cut_at_turn": 1}


def test_a_missing_prompt_id_is_the_sha256_of_the_first_question(workspace: Path) -> None:
    prepare(workspace, [chat("What is a tide?", "The sea's rise.")])
    (row,) = read_jsonl(OUT / "train.jsonl")
    assert row["id"] == hashlib.sha256(b"What is a tide?").hexdigest()


LEAKS = {
    "same prompt_id": chat("Quite another question?", "Yes.", prompt_id="held"),
    "other spacing": chat(HELD_OUT.replace(" ", "  ").replace(",", "").rstrip("?"), "No.", prompt_id="new"),
    "near-duplicate": chat(HELD_OUT.replace("please", "pleas"), "No.", prompt_id="new"),
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS.keys())
def test_a_leak_stops_the_stage_naming_the_rows(workspace: Path, leak: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"1 training conversations .*train.jsonl:2 = .*evaluation.jsonl:1"):
        prepare(workspace, [chat("What is a tide?", "The sea's rise."), leak])
    assert not OUT.exists()


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS.keys())
def test_a_leak_can_be_left_out_instead(workspace: Path, leak: dict[str, Any]) -> None:
    report = prepare(workspace, [chat("What is a tide?", "The sea's rise."), leak], overlap=Overlap.drop)
    assert report["dropped"] == {"in_evaluation": 1} and report["splits"]["train"]["rows"] == 1


def test_other_numbers_make_no_leak(workspace: Path) -> None:
    report = prepare(workspace, [chat(HELD_OUT.replace("one", "1"), "Yes.")])
    assert report["dropped"] == {}


def test_sets_are_named_counted_and_share_no_chat(workspace: Path) -> None:
    english, korean = chat("What is a tide?", "A rise."), chat("밀물이 무엇인가요?", "바닷물이 높아지는 일입니다.")
    paths = {"en": write(workspace / "en.jsonl", [english, chat("Why so?", "So.")]),
             "ko": write(workspace / "ko.jsonl", [korean, english])}  # fmt: skip
    held = {
        "en": write(workspace / "e.jsonl", [chat(HELD_OUT, "Yes.")]),
        "ko": write(workspace / "k.jsonl", [chat("왜?", "그냥.")]),
    }
    train, evaluation = (
        {name: Rows(source=RowSource.jsonl, path=path) for name, path in found.items()} for found in (paths, held)
    )
    prepare_ultrachat(PrepareUltrachat(train=train, evaluation=evaluation, max_reject_rate=1.0), workspace)
    report = json.loads((OUT / "data_report.json").read_text(encoding="utf-8"))
    assert report["splits"]["train"] == {"rows": 3, "sets": {"en": 2, "ko": 1}}
    assert report["dropped"] == {"duplicate_prompt_id": 1} and report["in"] == 6
    assert [row["set"] for row in read_jsonl(OUT / "train.jsonl")] == ["en", "en", "ko"]
    assert [row["set"] for row in read_jsonl(OUT / "evaluation.jsonl")] == ["en", "ko"]
    assert "| train | 3 (2 en, 1 ko) |" in (OUT / "DATA_CARD.md").read_text(encoding="utf-8")


def test_too_many_defects_stop_the_stage(workspace: Path) -> None:
    train = Rows(
        source=RowSource.jsonl, path=write(workspace / "t.jsonl", [chat("Why so?", "So.")] + [chat("No answer?")] * 2)
    )
    evaluation = Rows(source=RowSource.jsonl, path=write(workspace / "e.jsonl", [chat(HELD_OUT, "Yes.")]))
    with pytest.raises(UserError, match=r"2 of 4 rows are rejected, more than prepare_ultrachat.max_reject_rate = 0.1"):
        prepare_ultrachat(PrepareUltrachat(train={"en": train}, evaluation={"en": evaluation}), workspace)


def test_too_few_rows_are_an_error(workspace: Path) -> None:
    rows = Rows(source=RowSource.jsonl, path=write(workspace / "t.jsonl", [chat("Why so?", "So.")]), skip=1, take=2)
    with pytest.raises(UserError, match=r"t.jsonl: found 1 rows, needed 3 \(skip 1, take 2\)"):
        prepare_ultrachat(PrepareUltrachat(train={"en": rows}, evaluation={"en": rows}), workspace)


def test_nothing_to_train_on_stops_the_stage(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"found no row to train on.*2 read, 1 held out.*1 in_evaluation"):
        prepare(workspace, [chat(HELD_OUT, "No.")], overlap=Overlap.drop)


texts = st.text(max_size=30)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "robot"]) | st.none(), "content": texts | st.none()}
    ),
    max_size=5,
)
pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(
    lambda turns: [
        {"role": r, "content": t} for turn in turns for r, t in zip(("user", "assistant"), turn, strict=True)
    ]
)
rows = st.fixed_dictionaries(
    {"messages": pairs | messages | st.integers() | st.none()},
    optional={"prompt_id": texts | st.integers() | st.none(), "prompt": texts},
)


@given(chats=st.lists(rows, min_size=1, max_size=8), max_tokens=st.sampled_from([0, 120]))
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_in_is_kept_or_counted(workspace: Path, chats: list[Any], max_tokens: int) -> None:
    trained = chat("How many windows are there?", "Nine.", prompt_id="trained")  # without one the stage doesn't go on
    report = prepare(workspace, [trained, *chats], max_tokens=max_tokens, overlap=Overlap.drop)
    kept = list(read_jsonl(OUT / "train.jsonl"))
    assert report["in"] == len(chats) + 2 == report["kept"] + sum(report["dropped"].values())
    assert len(kept) + 1 == report["kept"]
    for row in kept:
        roles = [message["role"] for message in row["messages"]]
        assert roles[-1] == "assistant" and all(message["content"] for message in row["messages"])


clean_texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
typed_chats = st.lists(
    st.fixed_dictionaries(
        {"prompt_id": st.none() | clean_texts,
         "messages": st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "robot"]),
                                                     "content": st.none() | clean_texts}), max_size=4)}
    ),
    max_size=6,
)  # fmt: skip


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
@given(chats=typed_chats)
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_in_by_a_typed_format_is_kept_or_counted(
    workspace: Path, ending: str, chats: list[dict[str, Any]]
) -> None:
    trained = {name: chat("How many windows are there?", "Nine.", prompt_id="one")[name]
               for name in ("prompt_id", "messages")}  # fmt: skip
    path = str(row_files.write(workspace / f"chats{ending}", [trained, *chats]))
    held = write(workspace / "evaluation.jsonl", [chat(HELD_OUT, "Yes.", prompt_id="held")])
    train, evaluation = Rows(source=RowSource.jsonl, path=path), Rows(source=RowSource.jsonl, path=held)
    prepare_ultrachat(
        PrepareUltrachat(train={"en": train}, evaluation={"en": evaluation}, max_reject_rate=1.0), workspace
    )
    report = json.loads((OUT / "data_report.json").read_text(encoding="utf-8"))
    assert report["in"] == len(chats) + 2 == report["kept"] + sum(report["dropped"].values())


@pytest.mark.parametrize("ending", [".json", ".jsonl.gz", ".parquet", ".arrow"])
def test_chats_of_another_format_and_shape_are_read_and_counted(
    workspace: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [{"conversations": [{"from": "human", "value": f"Where is window {n}?"}, {"from": "gpt", "value": f"{n}."}]}
            for n in range(10)]  # fmt: skip
    path = str(row_files.write(workspace / f"chats{ending}", said))
    train, held_out = (Rows(source=RowSource.jsonl, path=path, **part) for part in ({"skip": 4}, {"take": 4}))
    prepare_ultrachat(PrepareUltrachat(train={"en": train}, evaluation={"en": held_out}), workspace)
    asked = [row["messages"][0]["content"] for row in read_jsonl(OUT / "train.jsonl")]
    assert asked == [f"Where is window {n}?" for n in range(4, 10)]
    assert f"chats{ending}: read conversations as messages." in capsys.readouterr().out
