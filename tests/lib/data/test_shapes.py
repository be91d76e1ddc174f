"""Every shape that people have their rows in comes out whole, and what nothing reads is refused by name."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stages.lib.conversations.conversations import admit_conversation
from stages.lib.data.columns import Reading, Unfit, named_columns
from stages.lib.data.jsonl_reader import Line, Rejected
from stages.lib.data.shapes import as_chat, as_pair, as_question, as_raw_text, expanded
from stages.lib.pdf_qa.qa_rows import admit
from stages.lib.preferences.preference_pairs import Pair, admit_pair
from stages.lib.schema.choices import Column


def question(row: Any, **columns: Column) -> tuple[str, str]:
    """The question and the answer of a row, as they are trained."""
    row = admit(Line("faq.jsonl:1", row), Reading(columns, file="faq.jsonl", label="faq.jsonl"))
    assert not isinstance(row, Rejected), row
    return row.question, row.answer


def chat(row: Any, **columns: Column) -> list[tuple[str, str]]:
    found = admit_conversation(Line("chats.jsonl:1", row), Reading(columns))
    assert not isinstance(found, Rejected), found
    return [(message["role"], message["content"]) for message in found.messages]


def pair(row: Any, least: float = 0.0, **columns: Column) -> dict[str, Any]:
    found = admit_pair(Line("pairs.jsonl:1", row), least, Reading(columns))
    assert isinstance(found, Pair), found
    return found.record()


ASKED, SAID = "여권은 어디서 받나요?", "1층 3번 창구에서 받습니다."
CONTEXT = "여권 창구는 1층 3번입니다."


@pytest.mark.parametrize(
    "names",
    [
        ("instruction", "output"),
        ("question", "answer"),
        ("prompt", "completion"),
        ("query", "response"),
        ("질문", "답변"),
        ("Question", "Answer"),
        ("input", "output"),
    ],
)
def test_questions_by_the_names_that_people_use(names: tuple[str, str]) -> None:
    assert question(dict(zip(names, (ASKED, SAID), strict=True))) == (ASKED, SAID)


def test_alpacas_input_is_part_of_the_question() -> None:
    row = {"instruction": "다음 문장을 영어로 번역하세요.", "input": "회의는 열 시입니다.", "output": "It is at ten."}
    assert question(row) == ("다음 문장을 영어로 번역하세요.\n\n회의는 열 시입니다.", "It is at ten.")
    assert question(row | {"input": ""})[0] == row["instruction"]
    whole = "Below is an instruction.\n\n{instruction}\n\n{input}\n\n{output}".format(**row)
    assert question(row | {"text": whole})[1] == "It is at ten."
    with pytest.raises(Unfit, match="unread_field"):
        as_question(Line("a:1", row | {"text": "Something else."}), Reading())


def test_dollys_context_is_part_of_the_question() -> None:
    row = {"instruction": ASKED, "context": CONTEXT, "response": SAID, "category": "closed_qa"}
    assert question(row) == (f"{ASKED}\n\n{CONTEXT}", SAID)


@pytest.mark.parametrize(
    "answers",
    [
        {"text": [SAID, "3번"], "answer_start": [0, 3]},
        [{"text": SAID, "answer_start": 0}, {"text": "3번", "answer_start": 3}],
    ],
)
def test_squad_flat(answers: Any) -> None:
    row = {"id": "1", "title": "여권", "context": CONTEXT, "question": ASKED, "answers": answers}
    assert question(row) == (f"{ASKED}\n\n{CONTEXT}", SAID)
    assert question(row, context=Column.ignore, title=Column.ignore) == (ASKED, SAID)


def test_squad_nested_is_a_row_for_each_question() -> None:
    asked = [
        {"id": "a", "question": ASKED, "answers": [{"text": SAID, "answer_start": 0}]},
        {"id": "b", "question": "몇 시에 여나요?", "answers": [], "is_impossible": True},
    ]
    article = {
        "title": "여권",
        "paragraphs": [{"context": CONTEXT, "qas": asked}, {"context": "다른 글", "qas": asked[:1]}],
    }
    lines = [line for line in expanded([Line("korquad.json:1", article)]) if isinstance(line, Line)]
    assert [line.where for line in lines] == [f"korquad.json:{number}" for number in (1, 2, 3)]
    assert question(lines[0].value) == (f"{ASKED}\n\n{CONTEXT}", SAID)
    assert question(lines[2].value) == (f"{ASKED}\n\n다른 글", SAID)
    with pytest.raises(Unfit, match="no_answer"):
        as_question(lines[1], Reading())


MESSAGES = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
SHAREGPT = [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}]
IN_PARTS = [{"role": "user", "content": [{"type": "text", "text": ASKED[:5]}, {"type": "text", "text": ASKED[5:]}]},
            {"role": "assistant", "content": [{"type": "text", "text": SAID}]}]  # fmt: skip


@pytest.mark.parametrize(
    "row", [{"messages": MESSAGES}, {"conversations": SHAREGPT, "id": "x"}, {"messages": IN_PARTS}]
)
def test_a_chat_of_one_exchange_is_a_question_and_a_longer_one_is_refused(row: dict[str, Any]) -> None:
    assert question(row) == (ASKED, SAID)
    assert chat(row) == [("user", ASKED), ("assistant", SAID)]
    (name,) = set(row) - {"id"}
    for messages in (row[name] * 2, [{"role": "system", "content": "짧게."}, *row[name]]):
        with pytest.raises(Unfit, match="not_one_question.*prepare_ultrachat"):
            as_question(Line("a:1", {name: messages}), Reading())


@pytest.mark.parametrize(
    ("row", "roles"),
    [
        ({"conversations": [{"from": "system", "value": "너는 안내원이다."}, *SHAREGPT]}, "sua"),
        ({"conversations": SHAREGPT, "system": "짧게."}, "sua"),
        ({"instruction": ASKED, "input": CONTEXT, "output": SAID, "system": "짧게."}, "sua"),
        ({"question": ASKED, "answer": SAID, "history": [["안녕하세요?", "네."]]}, "uaua"),
        ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}, "ua"),
        ({"prompt": ASKED, "prompt_id": "1", "messages": MESSAGES * 2}, "uaua"),
        ({"messages": [{"role": "developer", "content": "짧게."}, *MESSAGES]}, "sua"),
        ({"messages": [MESSAGES[0], MESSAGES[1] | {"weight": 1}]}, "ua"),
    ],
)
def test_chats(row: dict[str, Any], roles: str) -> None:
    assert "".join(role[0] for role, _ in chat(row)) == roles
    assert chat(row)[-1][1] == SAID


def asks(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def says(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


BAD = "잘 모르겠습니다."


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED, "chosen": SAID, "rejected": BAD},
        {"question": ASKED, "chosen": SAID, "rejected": BAD, "system": ""},
        {"prompt": asks(ASKED), "chosen": says(SAID), "rejected": says(BAD)},
        {"chosen": asks(ASKED) + says(SAID), "rejected": asks(ASKED) + says(BAD)},
        {"prompt": ASKED, "chosen": asks(ASKED) + says(SAID), "rejected": asks(ASKED) + says(BAD),
         "messages": asks(ASKED) + says(SAID), "score_chosen": 8.0, "score_rejected": 4.0, "prompt_id": "1"},
        {"conversations": SHAREGPT[:1], "chosen": {"from": "gpt", "value": SAID},
         "rejected": {"from": "gpt", "value": BAD}},
        {"chosen": f"\n\nHuman: {ASKED}\n\nAssistant: {SAID}", "rejected": f"\n\nHuman: {ASKED}\n\nAssistant: {BAD}"},
        {"chosen": f"{ASKED}\n{SAID}", "rejected": f"{ASKED}\n{BAD}"},
        {"instruction": ASKED, "source": "evol", "models": ["a", "b", "c"], "completions": [
            {"response": "네.", "overall_score": 5}, {"response": SAID, "overall_score": 8.5},
            {"response": BAD, "overall_score": 1}]},
    ],
)  # fmt: skip
def test_pairs_of_every_shape(row: dict[str, Any]) -> None:
    record = pair(row)
    assert (record["prompt"], record["chosen"], record["rejected"]) == (asks(ASKED), SAID, BAD)


def test_a_pairs_instruction_and_input_and_earlier_turns() -> None:
    row = {"instruction": ASKED, "input": CONTEXT, "chosen": SAID, "rejected": BAD}
    assert pair(row)["prompt"] == asks(f"{ASKED}\n\n{CONTEXT}")
    said = "\n\nHuman: 안녕하세요?\n\nAssistant: 네.\n\nHuman: {}\n\nAssistant: {}"
    record = pair({"chosen": said.format(ASKED, SAID), "rejected": said.format(ASKED, BAD)})
    assert record["prompt"] == [*asks("안녕하세요?"), *says("네."), *asks(ASKED)]
    system = [{"role": "system", "content": "짧게."}]
    record = pair({"prompt": system + asks(ASKED), "chosen": says(SAID), "rejected": says(BAD)})
    assert record["prompt"] == system + asks(ASKED)
    other = pair({"prompt": asks(ASKED), "chosen": says(SAID), "rejected": says(BAD)})
    assert other["id"] != record["id"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": ASKED, "chosen": SAID, "rejected": BAD, "score_chosen": 7.9, "score_rejected": 1.0}, "low_score"),
        ({"prompt": ASKED, "chosen": SAID, "rejected": BAD, "score_chosen": 9.0, "score_rejected": 9.0}, "tie"),
        ({"chosen": SAID, "rejected": BAD}, "missing_field"),
        ({"chosen": asks(ASKED) + says(SAID), "rejected": asks("다른 질문") + says(BAD)}, "more_than_an_answer"),
        ({"prompt": "다른 질문", "chosen": asks(ASKED) + says(SAID), "rejected": asks(ASKED) + says(BAD)},
         "prompt_differs"),
        ({"chosen": says(SAID), "rejected": says(BAD)}, "turns_do_not_alternate"),
        ({"prompt": ASKED, "chosen": SAID, "rejected": BAD, "note": "고침"}, "unread_field"),
    ],
)  # fmt: skip
def test_pairs_that_are_unfit(row: dict[str, Any], reason: str) -> None:
    found = admit_pair(Line("a:1", row), 8.0, Reading())
    assert isinstance(found, Rejected) and found.reason == reason


@pytest.mark.parametrize(
    ("row", "read"),
    [
        ({"question": ASKED, "answer": SAID, "해설": "자세한 설명"}, as_question),
        ({"question": ASKED, "instruction": "번역하세요.", "answer": SAID}, as_question),
        ({"messages": MESSAGES, "system": "짧게."}, as_question),
        ({"messages": MESSAGES, "tools": [{"name": "search"}]}, as_chat),
        ({"messages": [*MESSAGES[:1], {**MESSAGES[1], "tool_calls": [{"id": 1}]}]}, as_chat),
        ({"messages": [MESSAGES[0], MESSAGES[1] | {"weight": 0}]}, as_chat),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, MESSAGES[1]]}, as_chat),
        ({"messages": MESSAGES, "output": "another"}, as_chat),
        ({"prompt": ASKED, "chosen": SAID, "rejected": BAD, "images": ["a.png"]}, as_pair),
    ],
)
def test_what_nothing_reads_is_refused_by_name(row: dict[str, Any], read: Any) -> None:
    with pytest.raises(Unfit) as refused:
        read(Line("a:1", row), Reading(setting="prepare_pdf_qa.columns (faq.jsonl)"))
    assert refused.value.args[0] == "unread_field"


def test_a_setting_says_what_a_column_is_and_which_to_leave_out() -> None:
    row = {"문의글": ASKED, "회신": SAID, "해설": "자세한 설명", "점수": 3}
    columns = {"문의글": Column.question, "회신": Column.answer, "해설": Column.ignore, "점수": Column.ignore}
    assert question(row, **columns) == (ASKED, SAID)
    with pytest.raises(Unfit, match=r"missing_field.*needed a question and an answer; .*faq.jsonl.* says which"):
        as_question(Line("a:1", row), Reading(setting="prepare_pdf_qa.columns (faq.jsonl)"))
    renamed = {"대화록": [{"누가": "human", "말": ASKED}, {"누가": "gpt", "말": SAID}]}
    columns = {"대화록": Column.messages, "누가": Column.role, "말": Column.content}
    assert chat(renamed, **columns) == [("user", ASKED), ("assistant", SAID)]


def test_what_was_read_as_what_is_said() -> None:
    reading = Reading()
    as_question(Line("a:1", {"질문": ASKED, "답변": SAID, "분류": "여권"}), reading)
    usual = ("instruction", "output")
    assert reading.summary(usual) == "read 질문 as question, 답변 as answer; passed over 분류"
    ours = Reading()
    as_question(Line("a:1", {"instruction": ASKED, "output": SAID}), ours)
    assert ours.summary(usual) == ""


def test_cells_of_a_table_are_numbers_truths_and_lists() -> None:
    row = {"question": ASKED, "answer": SAID, "answerable": "FALSE", "key": '["3번"]', "fact_id": ""}
    fields = as_question(Line("a.csv:2", row, cells=True), Reading())
    assert (fields["answerable"], fields["key"], fields["fact_id"]) == (False, ["3번"], None)
    rated = {"prompt": ASKED, "chosen": SAID, "rejected": BAD, "score_chosen": "8.5"}
    assert as_pair(Line("a.csv:2", rated, cells=True), Reading())["chosen_score"] == 8.5
    listed = {"prompt": json.dumps(asks(ASKED)), "completion": json.dumps(says(SAID))}
    assert as_chat(Line("a.csv:2", listed, cells=True), Reading())["messages"] == asks(ASKED) + says(SAID)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["instruction", "input", "output", "answers", "messages", "conversations", "prompt", "chosen",
                         "rejected", "system", "history", "completion", "completions", "paragraphs", "qas", "id", "key",
                         "role", "content", "from", "value", "score_chosen", "x"])  # fmt: skip
message = st.dictionaries(st.sampled_from(["role", "from", "content", "value", "weight"]), json_values, max_size=3)
rows = st.dictionaries(names, json_values | st.lists(message | json_values, max_size=3), max_size=5)


@given(row=rows | json_values, cells=st.booleans())
@example(row={"history": True, "instruction": "a", "output": "b"}, cells=False)
def test_any_row_is_read_or_rejected(row: Any, cells: bool) -> None:
    for line in expanded([Line("any.jsonl:1", row, cells=cells)]):
        assert isinstance(line, Line)
        admit(line, Reading(file="any.jsonl", label="any.jsonl"))
        admit_conversation(line, Reading())
        admit_pair(line, 0.0, Reading())


def test_raw_text_is_a_row_of_text_alone_by_its_usual_name_or_a_mapped_one() -> None:
    reading = Reading(named_columns({"body": "text", "memo": "ignore"}), "columns", "a.csv", "a.csv")
    assert as_raw_text(Line("a.csv:2", {"body": "글", "memo": "x", "url": "u"}, cells=True), reading) == "글"
    assert reading.summary(()) == "read body as text; passed over url"
    plain = Reading(setting="columns")
    assert as_raw_text(Line("a.jsonl:1", {"text": "글", "title": "제목", "token_count": 3}), plain) == "글"
    for other in (
        {"instruction": "?", "output": "!", "text": "? !"},
        {"messages": [], "text": "글"},
        {"question": "?", "text": "글"},
        {"text": ["글"]},
        {"body": "글"},
        ["글"],
        {1: "글"},
    ):
        assert as_raw_text(Line("a.jsonl:1", other), plain) is None
    with pytest.raises(Unfit, match="summary.* and nothing reads it"):
        as_raw_text(Line("a.jsonl:1", {"text": "글", "summary": "요약"}), plain)
