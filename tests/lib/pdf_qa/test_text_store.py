"""Paragraphs become rows of one document, as long as fit; copies and what evaluation asks are left out by name."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stages.lib.data.columns import Reading
from stages.lib.data.jsonl_reader import Line
from stages.lib.data.rendered_rows import RowRenderer
from stages.lib.every_stage.records import read_jsonl
from stages.lib.pdf_qa.raw_text import Paragraph
from stages.lib.pdf_qa.text_store import TextStore, special_texts
from stages.lib.schema.data import PreparePdfQa
from tests.byte_tokenizer import write_byte_tokenizer

MOST = 240


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TextStore]:
    write_byte_tokenizer(tmp_path / "base")
    section = PreparePdfQa(files=[], max_tokens=MOST, raw_text=True)
    renderer = RowRenderer(tmp_path / "base")
    with closing(TextStore(tmp_path / "text.sqlite", tmp_path, section, renderer, tmp_path / "base")) as store:
        yield store


def said(number: int, times: int = 1) -> str:
    return f"{number}번 창구는 여권을 접수하고 수입인지를 팝니다. " * times


def finished(store: TextStore, *held_out: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    report: dict[str, Any] = {"sources": []}
    rows = store.finish(held_out, report)
    store.ledger.file.flush()
    texts = list(read_jsonl(store.out / "text.jsonl"))
    assert rows == len(texts) == report["raw_text"]["rows"]
    found = report["raw_text"]
    assert found["in"] == found["kept"] + sum(found["dropped"].values())
    return found, texts


def reasons(store: TextStore) -> list[tuple[str, str]]:
    return [(row["where"], row["reason"]) for row in read_jsonl(store.out / "text_rejects.jsonl")]


def test_rows_are_filled_up_within_a_document_and_never_longer(store: TextStore) -> None:
    store.add([Paragraph("text", n, said(n, n)) for n in range(1, 5)], "a.pdf", "a.pdf", "3f")
    store.add([Paragraph("text", 1, "다른 문서의 글은 다른 줄에 섭니다.")], "b.txt", "b.txt")
    found, texts = finished(store)
    assert [row["source"] for row in texts] == [
        {"file": "a.pdf", "sha256": "3f", "pages": [1, 2]}, {"file": "a.pdf", "sha256": "3f", "pages": [3, 3]},
        {"file": "a.pdf", "sha256": "3f", "pages": [4, 4]}, {"file": "b.txt", "lines": [1, 1]},
    ]  # fmt: skip
    assert [row["id"] for row in texts] == ["a.pdf#1", "a.pdf#2", "a.pdf#3", "b.txt#1"]
    assert texts[0]["text"] == f"{said(1).strip()}\n\n{said(2, 2).strip()}"
    lengths = [len(row["text"].encode()) for row in texts]
    assert lengths[0] <= MOST < lengths[3 - 1]  # one paragraph that is too long is a row, which training truncates
    assert found["tokens"] >= sum(lengths)


def test_copies_are_dropped_and_what_they_stood_between_is_not_joined(store: TextStore) -> None:
    long = "시민청 일 층에는 민원 창구가 아홉 개 있으며 여권과 증명서를 모두 한 곳에서 받을 수 있어 편리합니다. "
    long += "점심시간에도 창구 절반은 열려 있으니 기다리지 않아도 되고, 대기 번호는 전화기로도 뽑을 수 있습니다."
    store.add([Paragraph("text", 1, long)], "a.pdf", "a.pdf", "3f")
    store.add([Paragraph("text", 1, "앞에 있는 글입니다."), Paragraph("text", 2, long.replace(" ", "  ")),
               Paragraph("text", 3, "뒤에 있는 글입니다."), Paragraph("text", 4, long.replace("편리", "편안")),
               Paragraph("text", 5, long.replace("일 층", "2 층"))], "b.pdf", "b.pdf", "99")  # fmt: skip
    _, texts = finished(store)
    assert reasons(store) == [("b.pdf:2", "exact_duplicate"), ("b.pdf:4", "near_duplicate")]
    assert [row["text"] for row in texts[1:3]] == ["앞에 있는 글입니다.", "뒤에 있는 글입니다."]
    assert "2 층" in texts[3]["text"]  # another number is another text


def test_a_short_item_may_stand_in_many_lists(store: TextStore) -> None:
    for label in ("a.pdf", "b.pdf"):
        store.add([Paragraph("item", 1, "1. 신분증 사본"), Paragraph("item", 1, "2. 사진 두 장")], label, label, label)
    _, texts = finished(store)
    assert [row["text"] for row in texts] == ["1. 신분증 사본\n2. 사진 두 장"] * 2


def test_what_evaluation_asks_is_left_out_wherever_it_stands(store: TextStore) -> None:
    answer = "시민청의 주소는 달여울시 초롱돌로 417, 6층입니다."
    store.add([Paragraph("text", 1, f"오시는 길입니다. {answer}"), Paragraph("text", 1, said(1))], "a.txt", "a.txt")
    held = {"id": "address", "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}],
            "key": [], "source": {}}  # fmt: skip
    _, texts = finished(store, held)
    assert [row["text"] for row in texts] == [said(1).strip()]
    assert reasons(store) == [("a.txt:1", "asked_by_evaluation")]


def test_rows_of_text_are_taken_out_of_a_file_of_rows_and_the_others_left(store: TextStore) -> None:
    asked = {"instruction": "어디인가요?", "output": "6층입니다.", "text": "어디인가요? 6층입니다."}
    values = [{"text": "한 문서의 글입니다.\n\n그다음 글입니다.", "title": "제목", "url": "u"}, asked, {"text": " "},
              {"text": "글입니다.", "감상": "좋음"}, {"text": 5}, "글"]  # fmt: skip
    lines = [Line(f"rows.jsonl:{number}", value) for number, value in enumerate(values, start=1)]
    left = list(store.without_texts(lines, Reading(label="rows.jsonl")))
    assert [type(each).__name__ for each in left] == ["Line", "Rejected", "Line", "Line"]
    assert left[1].reason == "unread_field" and "'감상'" in left[1].detail  # type: ignore[union-attr]
    found, texts = finished(store)
    assert found["dropped"] == {"fragment": 1} and reasons(store) == [("rows.jsonl:3", "fragment")]
    assert [row["text"] for row in texts] == ["한 문서의 글입니다.\n\n그다음 글입니다."]
    assert texts[0]["source"] == {"file": "rows.jsonl", "lines": [1, 1]}


def test_special_tokens_are_those_of_the_tokenizer_and_those_that_end_answers(tmp_path: Path, tiny_base: Path) -> None:
    assert {"<|im_end|>", "<|im_start|>"} <= set(special_texts(RowRenderer(tiny_base), tiny_base))
    write_byte_tokenizer(tmp_path / "base")
    (tmp_path / "base/generation_config.json").write_text(json.dumps({"eos_token_id": [0]}), encoding="utf-8")
    assert special_texts(RowRenderer(tmp_path / "base"), tmp_path / "base") == ["!"]
