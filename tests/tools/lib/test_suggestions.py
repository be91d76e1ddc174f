"""What a newcomer may ask comes from the held-out wordings; data of a person's own are not called invented."""

from pathlib import Path

from stages.lib.every_stage.records import write_jsonl
from tools.lib.suggestions import Suggestions, suggestions


def row(fact: str, question: str, file: str = "office-guide.pdf") -> dict[str, object]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "그렇습니다."}]
    return {"id": question, "fact_id": fact, "messages": messages, "source": {"file": file, "page": 1}}


def test_three_facts_and_one_that_is_not_in_the_guide(tmp_path: Path) -> None:
    assert suggestions(tmp_path) == Suggestions([], invented=False)
    write_jsonl(tmp_path / "seen.jsonl", [row(f"{n // 2}", f"질문 {n}?") for n in range(12)])
    write_jsonl(tmp_path / "unanswerable.jsonl", [row("none", "모르는 것?"), row("none", "또?")])
    assert suggestions(tmp_path) == Suggestions(["질문 0?", "질문 4?", "질문 8?", "모르는 것?"], invented=True)


def test_own_documents_are_not_invented(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "seen.jsonl", [row("1", "주소?"), row("2", "전화?", "own/guide.pdf")])
    assert suggestions(tmp_path) == Suggestions(["주소?", "전화?"], invented=False)
    write_jsonl(tmp_path / "seen.jsonl", [{"id": "a", "messages": row("1", "주소?")["messages"]}])
    assert suggestions(tmp_path) == Suggestions(["주소?"], invented=False)
