"""Your own PDFs in three steps, bad files among them, and the back ends that make questions and rewordings."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from stages.lib.configuration import compose_config, typed_sections
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import read_jsonl, share_of
from stages.lib.schema.choices import Backend, JudgeBackend, OnBadPdf, Rewording
from stages.lib.schema.data import Generate, PreparePdfQa, Rate, Reword
from stages.prepare_pdf_qa import SPLITS, prepare_pdf_qa
from tests.byte_tokenizer import write_byte_tokenizer
from tests.chat_server import ChatModel, chatting
from tests.pdf_files import encrypted, pdf, text_page, write_faq

pytestmark = pytest.mark.chain

REPOSITORY = Path(__file__).parents[1]
OWN = Path("data/raw/pdf_qa/own")
OUT = Path("data/prepared/pdf_qa")


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "key-1")
    monkeypatch.setattr("stages.lib.asking.endpoint.PAUSE", 0.0)
    write_byte_tokenizer(tmp_path / "models/base")
    OWN.mkdir(parents=True)
    return tmp_path


def section(**changes: Any) -> PreparePdfQa:
    return PreparePdfQa(**({"files": [str(OWN)], "pdfs": [str(OWN)], "max_tokens": 1024} | changes))


def report() -> dict[str, Any]:
    return json.loads((OUT / "data_report.json").read_text(encoding="utf-8"))


def rows() -> list[dict[str, Any]]:
    return [row for split in SPLITS for row in read_jsonl(OUT / f"{split}.jsonl")]


def test_pdfs_in_the_folder_become_rows_with_provenance(workspace: Path) -> None:
    write_faq(OWN / "guide.pdf")
    prepare_pdf_qa(section(), workspace)
    assert report()["in"] == report()["kept"] == len(rows()) == 16
    for row in rows():
        source = row["source"]
        assert source["file"] == "guide.pdf" and len(source["sha256"]) == 64 and source["by"] == "rules"
        assert row["id"].startswith(f"guide-{source['page']}-")
    card = (OUT / "DATA_CARD.md").read_text(encoding="utf-8")
    assert "| guide.pdf | 16 |" in card and "4 pages of PDFs were read; with problems: none" in card
    assert [page["questions"] for page in read_jsonl(OUT / "pages.jsonl")] == [4] * 4


def test_the_shipped_choice_reads_the_folder_and_not_the_shipped_pdf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    for choice in ("default", "own"):
        composed = compose_config({"data": choice}, {})
        assert typed_sections(composed, only="prepare_pdf_qa")["prepare_pdf_qa"]["pdfs"] == [str(OWN)]
    assert list((REPOSITORY / OWN).glob("*.pdf")) == []
    stage = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["prepare-pdf-qa"]
    assert str(OWN.parent) in stage["deps"]


def test_an_empty_folder_says_what_to_put_there(workspace: Path) -> None:
    with pytest.raises(
        UserError, match=r"questions and answers into data/raw/pdf_qa/own: found none.* at least one \*\.pdf"
    ):
        prepare_pdf_qa(section(), workspace)


def test_a_pdf_that_asks_nothing_is_named(workspace: Path) -> None:
    (OWN / "prose.pdf").write_bytes(pdf([text_page(["달여울시민청은 평일에 문을 열고 여권을 접수합니다."])]))
    with pytest.raises(UserError, match="found no row to train on, needed one: 0 read"):
        prepare_pdf_qa(section(), workspace)
    write_trained()
    prepare_pdf_qa(section(), workspace)
    assert "- prose.pdf gave no row." in (OUT / "DATA_CARD.md").read_text(encoding="utf-8")


def test_files_of_another_kind_are_named(workspace: Path) -> None:
    write_faq(workspace / "guide.pdf")
    (OWN / "2031").mkdir()
    (workspace / "guide.pdf").rename(OWN / "2031/guide.pdf")
    for name in ("README.md", ".hidden", "안내.hwp"):
        (OWN / name).write_text("?", encoding="utf-8")
    prepare_pdf_qa(section(), workspace)
    assert report()["in"] == 16 and report()["unread"] == [str(OWN / "안내.hwp")]
    card = (OUT / "DATA_CARD.md").read_text(encoding="utf-8")
    assert f"- {OWN}/안내.hwp was not read: it is neither a PDF nor rows in a format that is read (.jsonl, " in card


def test_the_screen_says_what_each_document_gave(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_faq(OWN / "guide.pdf")
    (OWN / "prose.pdf").write_bytes(pdf([text_page(["달여울시민청은 평일에 문을 열고 여권을 접수합니다."])]))
    (OWN / "scan.pdf").write_bytes(pdf([text_page([])] * 2))
    (OWN / "link.pdf").symlink_to("gone.pdf")
    (OWN / "._guide.pdf").write_bytes(b"\0\5\x16\7")
    prepare_pdf_qa(section(on_bad_pdf=OnBadPdf.skip), workspace)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("link.pdf: left out: unreadable: No such file")
    assert said[1] == "guide.pdf: 16 questions from 4 pages"
    assert said[2].startswith(
        "prose.pdf: no questions from 1 pages; it has no heading that asks, FAQ, table or article"
    )
    assert said[3].startswith("scan.pdf: no questions from 2 pages; no page has text: a scan. Run OCR")
    with pytest.raises(UserError, match=r"own/link.pdf: unreadable.*on_bad_pdf=skip"):
        prepare_pdf_qa(section(), workspace)


def test_the_screen_sends_nothing_that_a_terminal_obeys(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of a PDF and of a table whose columns are told."""
    write_faq(OWN / "a\x1b[2J.pdf")
    (OWN / "b\x1b[2J.csv").write_text("prompt,completion\n주소는 어디인가요?,초롱돌로 417입니다.\n", encoding="utf-8")
    prepare_pdf_qa(section(), workspace)
    said = capsys.readouterr().out
    assert "\x1b" not in said and r"a\x1b[2J.pdf: 16 questions" in said and r"b\x1b[2J.csv: " in said


def test_linked_folders_are_read_once_and_equal_names_are_told_apart(workspace: Path) -> None:
    (OWN / ".kept/b.pdf").mkdir(parents=True)
    write_faq(OWN / ".kept/b.pdf/guide.pdf", pages=2)
    write_faq(OWN / "guide.pdf", pages=4)
    (OWN / "linked").symlink_to(".kept")
    (OWN / ".kept/round").symlink_to(OWN.absolute())
    (workspace / "elsewhere").mkdir()
    write_faq(workspace / "elsewhere/guide.pdf", pages=1)
    (OWN / "out").symlink_to(workspace / "elsewhere")
    prepare_pdf_qa(section(), workspace)
    files = {source["name"]: source["rows"] for source in report()["sources"]}
    assert files == {"own/guide.pdf": 16, "b.pdf/guide.pdf": 8}
    assert {row["id"].rpartition("guide-")[0] for row in rows()} == {"own/"}  # the other's rows are duplicates
    assert report()["unread"] == [str(OWN / "out")]
    card = (OUT / "DATA_CARD.md").read_text(encoding="utf-8")
    assert f"- {OWN}/out was not read: it leads to a folder elsewhere; copy it." in card


def test_a_bad_pdf_stops_the_stage_or_is_left_out_and_named(workspace: Path) -> None:
    write_faq(OWN / "guide.pdf")
    (OWN / "locked.pdf").write_bytes(encrypted(pdf([text_page(["비밀 문서입니다."])])))
    with pytest.raises(UserError, match=r"own/locked.pdf: encrypted: needs a password.*on_bad_pdf=skip"):
        prepare_pdf_qa(section(), workspace)
    assert not OUT.exists()
    prepare_pdf_qa(section(on_bad_pdf=OnBadPdf.skip), workspace)
    assert report()["pdf"]["refused"] == [{"file": "locked.pdf", "reason": "encrypted", "detail": "needs a password"}]
    assert report()["in"] == 16
    assert "locked.pdf was left out: encrypted" in (OUT / "DATA_CARD.md").read_text(encoding="utf-8")


def write_prose(path: Path) -> None:
    """A document that asks nothing."""
    lines = [
        "달여울시민청은 강가에 있으며 평일에 문을 열고 여권을 접수합니다.",
        "토요일에는 문을 열지 않지만 전화로는 물을 수 있습니다.",
    ]
    path.write_bytes(pdf([text_page(lines)]))


def passages() -> list[dict[str, Any]]:
    return list(read_jsonl(OUT / "text.jsonl"))


def test_raw_text_stands_beside_the_questions_and_changes_none_of_them(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_faq(OWN / "guide.pdf", pages=9)
    write_prose(OWN / "prose.pdf")
    (OWN / "README.md").write_text("이 폴더에는 파일을 넣습니다. 학습하지 않습니다.", encoding="utf-8")
    (OWN / "story.md").write_text("# 이야기\n\n강가에 오래된 시민청이 있었습니다.\n\n---\n", encoding="utf-8")
    (OWN / "notes.txt").write_bytes("언덕 위에서 강이 내려다보입니다.".encode("cp949"))
    (OWN / "web.jsonl").write_text(
        json.dumps({"text": "봄에는 강가에 꽃이 핍니다.", "url": "u"}, ensure_ascii=False), encoding="utf-8"
    )
    with pytest.raises(UserError, match="raw text, which asks nothing, is trained on with .*raw_text=true"):
        prepare_pdf_qa(section(), workspace)
    prepare_pdf_qa(section(max_reject_rate=1.0), workspace / "without")
    said = capsys.readouterr().out
    assert "prose.pdf: no questions from 1 pages" in said and said.count("prepare_pdf_qa.raw_text=true") == 1
    assert not (workspace / "without" / OUT / "text.jsonl").exists()
    prepare_pdf_qa(section(raw_text=True, max_reject_rate=0.0), workspace)
    said = capsys.readouterr().out
    for name in (*(f"{split}.jsonl" for split in SPLITS), "conflicts.jsonl", "pages.jsonl"):
        assert (OUT / name).read_bytes() == (workspace / "without" / OUT / name).read_bytes(), name
    texts = {row["source"]["file"]: row["text"] for row in passages()}
    assert list(texts) == ["web.jsonl", "guide.pdf", "prose.pdf", "notes.txt", "story.md"]
    assert texts["story.md"] == "# 이야기\n\n강가에 오래된 시민청이 있었습니다."
    assert "prose.pdf: no questions and 1 rows of raw text from 1 pages" in said
    found = report()["raw_text"]
    assert f"raw text: {found['in']} paragraphs read = {found['kept']} kept + " in said
    assert found["in"] == found["kept"] + sum(found["dropped"].values())
    metric = json.loads(Path("metrics/data_pdf_qa.json").read_text(encoding="ascii"))
    assert metric["raw_text"] == found
    funnel = Path("metrics/data_pdf_qa_funnel.csv").read_text(encoding="utf-8")
    assert f"raw text: read,{found['in']}" in funnel
    assert f"raw text: not asked by evaluation,{found['kept']}" in funnel
    card = (OUT / "DATA_CARD.md").read_text(encoding="utf-8")
    assert "## Raw text" in card and "| story.md | 0 and 1 of raw text |" in card
    assert "README.md" not in card and "gave no row" not in card


def test_no_paragraph_that_evaluation_asks_about_is_raw_text(workspace: Path) -> None:
    write_faq(OWN / "guide.pdf", pages=20)
    prepare_pdf_qa(section(raw_text=True), workspace)
    told = "".join(row["text"] for row in passages())
    answers = {split: [row["messages"][1]["content"] for row in read_jsonl(OUT / f"{split}.jsonl")] for split in SPLITS}
    unseen, trained = ([answer for answer in answers[split] if "명까지" in answer] for split in ("unseen", "train"))
    assert unseen and not any(answer in told for answer in unseen)
    assert trained and all(answer in told for answer in trained)
    assert report()["raw_text"]["dropped"]["asked_by_evaluation"] >= len(unseen)


def test_a_book_alone_is_enough_with_raw_text(workspace: Path) -> None:
    write_prose(OWN / "prose.pdf")
    with pytest.raises(UserError, match=r"(?s)found no row to train on.*prose.pdf: no questions.*raw_text=true"):
        prepare_pdf_qa(section(), workspace)
    prepare_pdf_qa(section(raw_text=True), workspace)
    assert len(passages()) == 1 and rows() == []
    (OWN / "prose.pdf").unlink()
    (OWN / "book.txt").write_text("강가에 오래된 시민청이 있었습니다.", encoding="utf-8")
    prepare_pdf_qa(section(raw_text=True, files=[str(OWN / "book.txt")], pdfs=[]), workspace)
    assert [row["id"] for row in passages()] == ["book.txt#1"]
    (OWN / "book.txt").write_text("---\n", encoding="utf-8")
    with pytest.raises(UserError, match="found no row to train on"):
        prepare_pdf_qa(section(raw_text=True), workspace)


def as_a_model(prompt: str) -> str:
    """One grounded pair, one with a number that the page doesn't have, in a fence as models do."""
    number = prompt.split("번 창구는 무슨")[0][-1]
    pairs = [
        {"question": f"{number}번 창구에서는 무엇을 접수하나요?", "answer": f"{number}번 창구는 여권을 접수하고"},
        {"question": f"{number}층 회의실 정원은 얼마인가요?", "answer": "99명까지 들어갑니다."},
    ]
    return "```json\n" + json.dumps(pairs, ensure_ascii=False) + "\n```"


def write_trained() -> None:
    """A file with one row that is trained on, without which the stage refuses to go on."""
    row = {"fact_id": "trained", "instruction": "시민청에는 창구가 모두 몇 개 있나요?", "output": "모두 아홉 개입니다."}
    assert share_of(row["fact_id"]) >= 0.2
    (OWN / "trained.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")


def endpoint(server: ChatModel, **changes: Any) -> Generate:
    asked = {"backend": Backend.openai, "model": "any", "endpoint": server.endpoint, "rules": False}
    return Generate(**(asked | changes))


def test_an_endpoint_writes_questions_that_the_page_must_ground(workspace: Path) -> None:
    write_faq(OWN / "guide.pdf")
    write_trained()
    with chatting(ChatModel(as_a_model, failures=[429, 503])) as model:
        generate = endpoint(model)
        prepare_pdf_qa(section(generate=generate, max_reject_rate=0.0), workspace)
        assert report()["dropped"] == {"answer_truncated": 4, "ungrounded_number": 4}
        assert len(model.requests) == 4 + 2 and model.requests[0]["path"] == "/v1/chat/completions"
        assert set(model.keys) == {"Bearer key-1"} and model.requests[0]["temperature"] == 0
        first = {path.name: path.read_bytes() for path in OUT.iterdir()}
        prepare_pdf_qa(section(generate=generate, max_reject_rate=0.0), workspace)
        assert len(model.requests) == 6  # cached: a rerun asks nothing
    assert {path.name: path.read_bytes() for path in OUT.iterdir()} == first
    assert "key-1" not in "".join(path.read_text(encoding="utf-8") for path in (workspace / "cache").rglob("*.json"))


def test_another_model_is_asked_anew(workspace: Path) -> None:
    write_faq(OWN / "guide.pdf", pages=1)
    write_trained()
    with chatting(ChatModel(as_a_model)) as model:
        for name in ("one", "two"):
            prepare_pdf_qa(section(generate=endpoint(model, model=name)), workspace)
        assert [request["model"] for request in model.requests] == ["one", "two"]


def test_a_response_that_is_no_json_is_counted(workspace: Path) -> None:
    write_faq(OWN / "guide.pdf")
    write_trained()
    with chatting(ChatModel(lambda prompt: "죄송합니다.")) as model:
        for _ in range(2):
            prepare_pdf_qa(section(generate=endpoint(model)), workspace)
    assert report()["in"] == 1 + 4 and report()["dropped"] == {"unreadable_response": 4}
    assert len(model.requests) == 8  # what can't be used isn't kept: the next run asks again
    assert list((workspace / "cache").rglob("*.json")) == []


def as_a_thinking_model(prompt: str) -> str:
    """Two wordings of one question about a page's window, after some thinking, and a second pair that is truncated."""
    number = prompt.split("번 창구는 무슨")[0][-1]
    questions = [f"{number}번 창구에서는 무엇을 접수하나요?", f"여권을 접수하는 곳이 {number}번 창구인가요?"]
    pair = {"kind": "fact", "questions": questions, "answer": f"{number}번 창구는 여권을 접수합니다."}
    return f'<think>[{{창구}}]</think>```json\n[{json.dumps(pair, ensure_ascii=False)}, {{"kind": "reason", "qu'


def test_rules_and_a_model_ask_together_and_a_page_is_on_one_side(workspace: Path) -> None:
    write_faq(OWN / "guide.pdf", pages=9)
    prepare_pdf_qa(section(), workspace / "rules")
    with chatting(ChatModel(as_a_thinking_model)) as model:
        prepare_pdf_qa(section(generate=endpoint(model, rules=True)), workspace)
    prompt = model.requests[0]["messages"][0]["content"]
    assert prompt.startswith("아래 글만 보고") and "문서: guide" in prompt and "3개" in prompt
    assert report()["dropped"] == {"unreadable_response": 9} and report()["kept"] == 9 * (4 + 2)
    by_rules = {row["id"]: row["messages"] for row in rows() if row["source"]["by"] == "rules"}
    alone = [row for split in SPLITS for row in read_jsonl(workspace / "rules" / OUT / f"{split}.jsonl")]
    assert by_rules == {row["id"]: row["messages"] for row in alone}
    written = [row for row in rows() if row["source"]["by"] == "openai"]
    assert all(row["source"]["kind"] == "fact" and row["fact_id"] == row["id"].split(".")[0] for row in written)
    sides: dict[int, set[bool]] = {}
    for split in SPLITS:
        for row in read_jsonl(OUT / f"{split}.jsonl"):
            sides.setdefault(row["source"]["page"], set()).add(split == "unseen")
    assert len(sides) == 9 and all(len(side) == 1 for side in sides.values()) and {True} in sides.values()
    seen = list(read_jsonl(OUT / "seen.jsonl"))
    assert seen and {row["fact_id"] for row in seen} <= {row["fact_id"] for row in read_jsonl(OUT / "train.jsonl")}


def test_a_rating_drops_what_is_unclear_or_not_in_the_text_and_keeps_the_scores(workspace: Path) -> None:
    write_faq(OWN / "guide.pdf")

    def rate(prompt: str) -> str:
        question = prompt.rsplit("Question: ")[-1]
        if "1층" in question:
            return "좋은 질문입니다."
        scores = {"clear": 3 if "2층" in question else 5, "complete": 5, "grounded": 1 if "3층" in question else 4}
        return json.dumps(scores)

    with chatting(ChatModel(rate)) as model:
        rating = Rate(JudgeBackend.openai, "any", model.endpoint)
        prepare_pdf_qa(section(rate=rating), workspace)
        prepare_pdf_qa(section(rate=rating), workspace)
    assert len(model.requests) == 16 + 1  # the one that couldn't be read is asked for again
    assert "1번 창구는 여권을 접수하고" in model.requests[0]["messages"][0]["content"]
    assert report()["dropped"] == {"rated_ungrounded": 1, "rated_unclear": 1, "unreadable_rating": 1}
    assert all(row["source"]["rating"] == {"clear": 5, "complete": 5, "grounded": 4} for row in rows())
    assert "rated,13" in Path("metrics/data_pdf_qa_funnel.csv").read_text(encoding="utf-8")
    details = [reject["detail"] for reject in read_jsonl(OUT / "rejects.jsonl")]
    assert "clear: 3 of 5, needed 4" in details


def test_the_shipped_example_asks_a_model(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_faq(OWN / "guide.pdf")
    with chatting(ChatModel(as_a_thinking_model)) as model:
        monkeypatch.chdir(REPOSITORY)
        here = f"prepare_pdf_qa.generate.endpoint={model.endpoint}"
        composed = compose_config({"data": "own-with-model"}, {}, [here])
        monkeypatch.chdir(workspace)
        prepare_pdf_qa(OmegaConf.to_object(composed.prepare_pdf_qa), workspace)
    assert {row["source"]["by"] for row in rows()} == {"rules", "openai"}


@pytest.mark.parametrize(
    ("failures", "message"), [([401], "answered 401: .*OPENAI_API_KEY"), ([500] * 5, "answered 500: .*try later")]
)
def test_an_endpoint_that_refuses_is_named(workspace: Path, failures: list[int], message: str) -> None:
    write_faq(OWN / "guide.pdf", pages=1)
    asked = rf"/v1/chat/completions: {message}"
    with chatting(ChatModel(as_a_model, failures=failures)) as model, pytest.raises(UserError, match=asked):
        prepare_pdf_qa(section(generate=endpoint(model)), workspace)


def test_an_endpoint_that_isnt_there_is_named(workspace: Path) -> None:
    write_faq(OWN / "guide.pdf", pages=1)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(UserError, match=rf"{address}/chat/completions: can't be reached"):
            prepare_pdf_qa(section(generate=Generate(Backend.openai, model="any", endpoint=address)), workspace)


def test_templates_reword_training_questions_alone(workspace: Path) -> None:
    write_faq(OWN / "guide.pdf")
    prepare_pdf_qa(section(), workspace / "plain")
    prepare_pdf_qa(section(reword=Reword(Rewording.templates, 2)), workspace)
    plain = {split: list(read_jsonl(workspace / "plain" / OUT / f"{split}.jsonl")) for split in SPLITS}
    reworded = {split: list(read_jsonl(OUT / f"{split}.jsonl")) for split in SPLITS}
    assert reworded["seen"] == plain["seen"] and reworded["unseen"] == plain["unseen"]
    added = [row for row in reworded["train"] if row.get("reworded")]
    assert [row for row in reworded["train"] if not row.get("reworded")] == plain["train"]
    assert len(added) == report()["reworded"]["added"] > 0
    originals = {row["id"]: row for row in plain["train"]}
    for row in added:
        original = originals[row["id"].split("~")[0]]
        assert row["messages"][1] == original["messages"][1] and row["fact_id"] == original["fact_id"]
        assert row["messages"][0] != original["messages"][0]


def test_back_translation_is_guarded(workspace: Path) -> None:
    questions = ["3번 창구는 어디인가요?", "1층 회의실은 어디인가요?", "여권은 누가 접수하나요?"]
    lines = [json.dumps({"id": str(n), "instruction": q, "output": f"{n}번입니다."}) for n, q in enumerate(questions)]
    (OWN / "faq.jsonl").write_text("\n".join(lines), encoding="utf-8")

    def translate(prompt: str) -> str:
        text = prompt.split("\n\n")[-1]
        if prompt.startswith("Translate"):
            return f"EN {text}"
        return text.removeprefix("EN ").replace("창구", "데스크").replace("1층", "7층")

    with chatting(ChatModel(translate)) as model:
        reword = Reword(Rewording.back_translation)
        prepare_pdf_qa(section(generate=endpoint(model), reword=reword, held_out_facts=0.0), workspace)
    added = [row for row in read_jsonl(OUT / "train.jsonl") if row.get("reworded")]
    assert [row["messages"][0]["content"] for row in added] == ["3번 데스크는 어디인가요?"]
    assert report()["reworded"] == {
        "added": 1,
        "asked_already": 0,
        "changed_meaning": 2,
        "rejected_in_review": 0,
        "unfit": 0,
    }


@pytest.mark.slow
def test_a_local_chat_model_is_asked(workspace: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    directory = workspace / "chat-model"
    write_byte_tokenizer(directory)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = (REPOSITORY / "conf/chat_template/chatml.jinja").read_text(encoding="utf-8")
    tokenizer.save_pretrained(directory)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    write_faq(OWN / "guide.pdf", pages=1)
    write_trained()
    generate = Generate(Backend.huggingface, model=str(directory), rules=False, max_new_tokens=8)
    prepare_pdf_qa(section(generate=generate), workspace)
    assert report()["dropped"] == {"unreadable_response": 1}  # an untrained model writes no JSON, and that is counted
    assert list((workspace / "cache").rglob("*.json")) == []  # it can't be used, so that it is asked for again


def test_a_local_model_that_isnt_there_is_named(workspace: Path) -> None:
    write_faq(OWN / "guide.pdf", pages=1)
    with pytest.raises(UserError, match=r"prepare_pdf_qa.generate.model: found no config.json in nowhere"):
        prepare_pdf_qa(section(generate=Generate(Backend.huggingface, model="nowhere")), workspace)
