"""A review's decisions by its requests, in a terminal and in a browser, and what the next run makes of them."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Project

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import read_jsonl, write_json, write_jsonl
from stages.lib.pdf_qa.review_decisions import FILE, Review, read_decisions
from stages.lib.schema.data import PdfLimits, PreparePdfQa
from stages.prepare_pdf_qa import prepare_pdf_qa
from tests.browser import Visitor, in_browser, launched, serving, visiting
from tests.byte_tokenizer import write_byte_tokenizer
from tests.pdf_files import write_faq
from tools.lib.page_pictures import PagePictures
from tools.lib.review_app import ReviewPage, review_application
from tools.lib.review_rows import DROPPED, OPEN, PREPARED, ReviewDesk, Row
from tools.review import decide, review

HOSTILE = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script> & <b>굵게</b>"
OWN = Path("data/raw/pdf_qa/own")
ROWS = [
    {"instruction": "그것은 언제 하나요?", "output": "월요일에 합니다."},
    {"instruction": f"{HOSTILE}은 무엇인가요?", "output": f"{HOSTILE}입니다."},
    {"instruction": "너무 긴 답은 무엇인가요?", "output": "창구에 냅니다." * 90},
]


def prepared_at(place: Path, pages: int = 8) -> Path:
    """A place where the stage ran on a PDF, on rows that gates drop, and on a line that is no row."""
    here = Path.cwd()
    write_byte_tokenizer(place / "models/base")
    (place / OWN).mkdir(parents=True)
    write_faq(place / OWN / "guide.pdf", pages)
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS] + ['{"broken']
    (place / OWN / "faq.jsonl").write_text("\n".join(lines), encoding="utf-8")
    section: dict[str, Any] = {"files": [str(OWN)], "pdfs": [str(OWN)], "max_tokens": 512, "max_reject_rate": 1.0}
    (place / "params.lock.yaml").write_text(yaml.safe_dump({"prepare_pdf_qa": section}), encoding="utf-8")
    os.chdir(place)
    try:
        prepare_pdf_qa(PreparePdfQa(**section), Path())
    finally:
        os.chdir(here)
    return place


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    prepared_at(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def row_of(desk: ReviewDesk, question: str) -> Row:
    return next(row for row in desk.rows.values() if question in row.question)


# ---- the rows and their decisions ----


def test_rows_of_every_split_and_those_dropped_are_there(workspace: Path) -> None:
    desk = ReviewDesk()
    splits = [row.split for row in desk.rows.values()]
    prepared = {name: len(list(read_jsonl(PREPARED / f"{name}.jsonl"))) for name in ("train", "seen", "unseen")}
    assert {name: splits.count(name) for name in prepared} == prepared and prepared["unseen"] > 0
    dropped = {row.reason: row for row in desk.rows.values() if row.split == DROPPED}
    assert set(dropped) == {"dangling_reference", "too_long_tokens", "invalid_json"}
    assert [(row.readable, row.acceptable) for row in dropped.values()] == [(True, True), (False, False), (True, False)]
    assert {row.file for row in desk.rows.values()} == {"guide.pdf", "faq.jsonl"}
    assert sum(desk.counts().values()) == len(desk.rows) - 1  # of a broken line nothing can be decided


def test_decisions_survive_a_new_desk_and_are_taken_back_in_order(workspace: Path) -> None:
    desk = ReviewDesk()
    first, second = row_of(desk, "1번 창구"), row_of(desk, "2번 창구")
    desk.decide(first, "accept")
    desk.decide(second, "edit", "2번 창구는 뭘 하나요?", second.answer)
    desk.decide(first, "reject")
    assert [ReviewDesk().state(row) for row in (first, second)] == ["reject", "edit"]
    other = ReviewDesk()  # as after a reload of the server
    undone = other.undo()
    assert undone and other.row_of(undone) is other.rows[first.key]
    assert [ReviewDesk().state(row) for row in (first, second)] == ["accept", "edit"]
    other.undo()
    other.undo()
    assert other.undo() is None
    assert {ReviewDesk().state(row) for row in (first, second)} == {OPEN}
    assert len(read_decisions(FILE)[0]) == 6  # nothing is rewritten


def test_what_can_t_be_decided_is_said_and_nothing_is_kept(workspace: Path) -> None:
    desk = ReviewDesk()
    broken = next(row for row in desk.rows.values() if row.reason == "invalid_json")
    long = next(row for row in desk.rows.values() if row.reason == "too_long_tokens")
    for attempt, said in (
        (lambda: desk.decide(broken, "reject"), "faq.jsonl:4.*fix the file"),
        (lambda: desk.decide(long, "accept"), "too_long_tokens: .*can't overrule"),
        (lambda: desk.decide(long, "edit", "질문은 무엇인가요?", "\u200b "), "found no text"),
        (lambda: desk.find("none"), "load the page again"),
    ):
        with pytest.raises(UserError, match=said):
            attempt()
    assert not FILE.exists()
    desk.decide(long, "edit", long.question, "창구에 냅니다.")
    assert desk.state(long) == "edit"


def test_an_edit_that_changes_nothing_is_an_acceptance(workspace: Path) -> None:
    desk = ReviewDesk()
    row = row_of(desk, "1번 창구")
    assert desk.decide(row, "edit", row.question, row.answer).decision == "accept"


def test_after_the_next_run_rows_stand_as_they_were_decided(workspace: Path) -> None:
    desk = ReviewDesk()
    edited, rejected, accepted = row_of(desk, "1번 창구"), row_of(desk, "2번 창구"), row_of(desk, "그것은")
    desk.decide(edited, "edit", "1번 창구는 뭘 하나요?", edited.answer)
    desk.decide(rejected, "reject")
    desk.decide(accepted, "accept")
    section = yaml.safe_load(Path("params.lock.yaml").read_text(encoding="utf-8"))["prepare_pdf_qa"]
    prepare_pdf_qa(PreparePdfQa(**section), Path())
    desk.refresh()
    assert desk.state(row_of(desk, "1번 창구는 뭘 하나요?")) == "edit"
    again = row_of(desk, rejected.question)
    assert (again.split, again.reason, desk.state(again)) == (DROPPED, "rejected_in_review", "reject")
    assert row_of(desk, "그것은").split != DROPPED
    desk.decide(again, "accept")  # a change of mind
    prepare_pdf_qa(PreparePdfQa(**section), Path())
    desk.refresh()
    assert row_of(desk, rejected.question).split != DROPPED


def test_equal_rows_have_keys_of_their_own(tmp_path: Path) -> None:
    reject = {"where": "guide.pdf:1", "reason": "unreadable_response", "detail": "no JSON", "text": "sorry"}
    for split in ("train", "seen", "unseen"):
        write_jsonl(tmp_path / f"{split}.jsonl", [])
    write_jsonl(tmp_path / "rejects.jsonl", [reject, reject])
    write_json(tmp_path / "data_report.json", {})
    assert len(ReviewDesk(tmp_path, tmp_path / "decisions.jsonl").rows) == 2


def test_before_the_stage_ran_it_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="dvc repro prepare-pdf-qa"):
        ReviewDesk()


# ---- in a terminal ----


def typing(*lines: str) -> Callable[[str, str], str]:
    """Someone who types these lines and then leaves; a line of ~ leaves the text that the prompt begins with."""
    left = list(lines)

    def ask(prompt: str, text: str) -> str:
        if not left:
            raise EOFError
        typed = left.pop(0)
        return typed.replace("~", text)

    return ask


def test_a_terminal_review_accepts_rejects_edits_and_takes_back(workspace: Path) -> None:
    desk = ReviewDesk()
    rows = [row for row in desk.rows.values() if row.file == "guide.pdf"][:4]
    said: list[str] = []
    review(desk, rows, typing("a", "x", "r", "u", "s", "e", "~", "~ 정말입니다."), said.append)
    assert [desk.state(row) for row in rows] == ["accept", OPEN, "edit", OPEN]
    pending = desk.pending(rows[2])
    assert pending and (pending.new_question, pending.new_answer) == (rows[2].question, f"{rows[2].answer} 정말입니다.")
    assert any(text.startswith("taken back: reject of guide-") for text in said)
    review(desk, rows, typing("r", "r"), said.append)  # goes on where it was left
    assert [desk.state(row) for row in rows] == ["accept", "reject", "edit", "reject"]


def test_a_terminal_edit_with_an_empty_line_keeps_the_text(workspace: Path) -> None:
    desk = ReviewDesk()
    row = row_of(desk, "1번 창구")
    assert decide(desk, row, typing("e", "", "다른 답입니다.")) == "edit"
    pending = desk.pending(row)
    assert pending and (pending.new_question, pending.new_answer) == (row.question, "다른 답입니다.")


def test_a_terminal_review_says_what_can_t_be_decided_and_goes_on(workspace: Path) -> None:
    desk = ReviewDesk()
    long = next(row for row in desk.rows.values() if row.reason == "too_long_tokens")
    said: list[str] = []
    review(desk, [long], typing("a", "r"), said.append)
    assert any("can't overrule" in text for text in said) and desk.state(long) == "reject"


def test_the_command_in_a_terminal(workspace: Path) -> None:
    command = [sys.executable, "-m", "tools.review", "--terminal", "--reason", "dangling_reference"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, input="a\n", capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "dropped: dangling_reference: " in done.stdout
    *_, counts, remedy = done.stdout.splitlines()
    assert counts.startswith("1 accept, 0 edit, 0 reject, ") and remedy.endswith("`dvc repro` applies them.")
    assert [one.decision for one in Review.of(FILE).decisions] == ["accept"]


# ---- the server by its requests ----


@pytest.fixture
def client(workspace: Path) -> Any:
    from starlette.testclient import TestClient

    page = ReviewPage(ReviewDesk(), PagePictures([str(OWN)], PdfLimits()))
    return TestClient(review_application(page, ["127.0.0.1"]), base_url="http://127.0.0.1")


def listed(client: Any, **same: Any) -> list[dict[str, Any]]:
    rows = client.get("/api/rows").json()["rows"]
    return [row for row in rows if all(row[name] == value for name, value in same.items())]


def test_a_row_comes_with_its_page_and_the_mark(client: Any) -> None:
    row = listed(client, file="guide.pdf", page=2)[0]
    whole = client.get("/api/row", params={"key": row["key"]}).json()
    assert whole["page_known"] and whole["acceptable"] and whole["answer"]
    picture = client.get("/api/picture", params={"key": row["key"]})
    assert picture.content.startswith(b"\x89PNG")
    assert picture.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    marks = client.get("/api/marks", params={"key": row["key"]}).json()
    assert marks["boxes"] and all(0 <= share <= 1 for box in marks["boxes"] for share in box)
    said = "".join(marks["text"][slice(*marks["span"])].split())
    assert "".join(whole["answer"].split()) in said
    faq = listed(client, file="faq.jsonl", reason="dangling_reference")[0]
    assert not client.get("/api/row", params={"key": faq["key"]}).json()["page_known"]
    assert client.get("/api/picture", params={"key": faq["key"]}).status_code == 404


def test_decide_and_undo_by_requests(client: Any) -> None:
    row = listed(client, file="guide.pdf")[0]
    told = client.post("/api/decide", json={"key": row["key"], "decision": "reject"}).json()
    assert told["states"] == {row["key"]: "reject"} and told["counts"]["reject"] == 1
    edit = {"key": row["key"], "decision": "edit", "question": " 무엇인가요? ", "answer": HOSTILE}
    assert client.post("/api/decide", json=edit).json()["states"] == {row["key"]: "edit"}
    assert client.get("/api/row", params={"key": row["key"]}).json()["edit"] == ["무엇인가요?", HOSTILE]
    assert client.post("/api/undo", json={}).json()["states"] == {row["key"]: "reject"}
    assert client.post("/api/undo", json={}).json()["counts"]["open"] == told["counts"]["open"] + 1
    assert client.post("/api/undo", json={}).json() == {"error": "nothing_to_undo"}


@pytest.mark.parametrize(
    ("path", "content", "status", "said"),
    [
        ("/api/decide", {"key": "none", "decision": "accept"}, 400, "load the page again"),
        ("/api/decide", {"key": "none", "decision": "undo"}, 422, "accept"),
        ("/api/decide", {"decision": "accept"}, 422, "key"),
        ("/api/decide", {"key": 1, "decision": "accept"}, 422, "string"),
        ("/api/undo", {"id": "mine"}, 422, "Extra inputs"),
    ],
)
def test_what_can_t_be_asked_is_said(client: Any, path: str, content: Any, status: int, said: str) -> None:
    refused = client.post(path, json=content)
    assert refused.status_code == status and said in refused.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Host": "rebound.example"}, 400),
        ({"Content-Type": "text/plain"}, 400),
    ],
    ids=str,
)
def test_pages_from_elsewhere_read_and_decide_nothing(client: Any, headers: dict[str, str], status: int) -> None:
    row = listed(client)[0]
    ballot = json.dumps({"key": row["key"], "decision": "reject"})
    assert client.post("/api/decide", content=ballot, headers=headers).status_code == status
    if "Content-Type" not in headers:
        for path in ("/", "/api/rows", f"/api/row?key={row['key']}", f"/api/picture?key={row['key']}"):
            assert client.get(path, headers=headers).status_code == status
    assert not FILE.exists()


def test_too_large_a_decision_is_refused(client: Any) -> None:
    row = listed(client)[0]
    edit = {"key": row["key"], "decision": "edit", "question": "?", "answer": "가" * 2**20}
    assert client.post("/api/decide", json=edit).status_code == 413 and not FILE.exists()


def test_the_page_asks_nobody_and_runs_nothing_else(client: Any) -> None:
    answer = client.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "img-src 'self' data:" in policy and "unsafe" not in policy
    assert not re.findall(
        r"""(?:src|href)=["']?(?!data:)[^"' >]+|url\(|https?://|innerHTML|insertAdjacent""", answer.text
    )


def test_a_server_that_is_killed_keeps_every_decision_that_it_answered(workspace: Path) -> None:
    import httpx2

    command = [sys.executable, "-u", "-m", "tools.review", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        address = re.search(r"http://\S+", server.stdout.readline())
        assert address
        rows = [row for row in httpx2.get(f"{address[0]}/api/rows").json()["rows"] if row["file"] == "guide.pdf"]
        answered = []
        with pytest.raises(httpx2.HTTPError):
            while True:
                row = rows[len(answered) % len(rows)]
                decision = "reject" if len(answered) % 2 else "accept"
                asked = {"key": row["key"], "decision": decision}
                httpx2.post(f"{address[0]}/api/decide", json=asked).raise_for_status()
                answered.append(row["key"])
                if len(answered) == 5:  # from here on at any moment
                    threading.Timer(0.05, lambda: server.send_signal(signal.SIGKILL)).start()
    finally:
        server.kill()
        server.wait()
    decisions, damaged = read_decisions(FILE)
    assert len(answered) >= 5 and len(answered) <= len(decisions) <= len(answered) + 1 and len(damaged) <= 1
    desk = ReviewDesk()
    desk.decide(next(iter(desk.rows.values())), "reject")
    assert len(read_decisions(FILE)[0]) == len(decisions) + 1


# ---- in a browser ----


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


READY = "#list li, #place:text-matches('.')"


def looking(browser: Any, address: str, **options: Any) -> Visitor:
    return Visitor(browser, address, READY, **options)


def badge(page: Any) -> str:
    return page.locator("#place .badge").inner_text()


def tally(page: Any) -> list[int]:
    """Rows in all, decided, accepted, edited and rejected, as the Korean page says."""
    return [int(number) for number in re.findall(r"\d+", page.locator("#tally").inner_text())]


@in_browser
@pytest.mark.slow
@pytest.mark.xdist_group("review")
def test_thirty_rows_by_keyboard_alone_and_dvc_repro_applies_them(
    browser: Any, tiny_model: Path, tmp_path: Path
) -> None:
    project = Project(tmp_path / "project", tiny_model)
    place = project.directory
    write_faq(place / OWN / "guide.pdf", pages=10)
    write_jsonl(place / OWN / "faq.jsonl", ROWS[:1])
    project.write("params.yaml", "data: default", "data: own\nprepare_pdf_qa: {max_reject_rate: 1.0}")
    assert "prepare-pdf-qa" in project.repro("prepare-pdf-qa")
    before = {
        row["id"]: row for name in ("train", "seen", "unseen") for row in read_jsonl(place / PREPARED / f"{name}.jsonl")
    }
    with (
        serving("review", place) as address,
        visiting(lambda **options: looking(browser, address, **options), address) as visit,
    ):
        page = visit().page
        keys = page.keyboard
        assert page.locator("html").get_attribute("lang") == "ko"
        decided: dict[str, str] = {}
        for number in range(30):
            question = page.locator("#question").inner_text()
            assert question not in decided and badge(page) == "미검토"
            kind = ("accept", "reject", "accept", "edit", "accept")[number % 5]
            decided[question] = kind
            keys.press({"accept": "a", "reject": "r", "edit": "e"}[kind])
            if kind == "edit":
                page.wait_for_selector("#change:not([hidden])")
                assert page.locator("#new-question").input_value() == question
                keys.type(" 확인했습니다.")  # behind the present answer
                keys.press("Control+Enter")
            page.wait_for_selector(f"#tally:text-matches('중 {number + 1}개 검토')")
            page.locator("#answer:text-matches('.')").wait_for()
        assert tally(page) == [41, 30, 18, 6, 6]

        last = question
        keys.press("u")
        page.wait_for_selector("#tally:text-matches('중 29개 검토')")
        page.locator("#question", has_text=last).wait_for()
        assert badge(page) == "미검토"
        page.reload()
        page.wait_for_selector("#tally:text-matches('중 29개 검토')")
        page.locator("#question", has_text=last).wait_for()  # the row that was open
        keys.press("a")
        page.wait_for_selector("#tally:text-matches('중 30개 검토')")

        for _ in range(5):
            keys.press("Shift+Tab")  # from the row to the first filter
        for _ in range(4):
            keys.press("ArrowDown")
        page.locator("#why", has_text="dangling_reference").wait_for()
        keys.press("Escape")
        keys.press("a")
        page.wait_for_selector("#tally:text-matches('중 31개 검토')")
    assert project.repro("prepare-pdf-qa") == ["prepare-pdf-qa"]
    after = {row["messages"][0]["content"]: row for name in ("train", "seen", "unseen")
             for row in read_jsonl(place / PREPARED / f"{name}.jsonl")}  # fmt: skip
    assert len(before) == 40 and len(after) == 40 - 6 + 1
    for question, kind in decided.items():
        assert (question in after) == (kind != "reject")
        if kind != "reject":
            assert after[question]["source"]["review"] == kind
            assert after[question]["messages"][1]["content"].endswith(" 확인했습니다.") == (kind == "edit")
    assert ROWS[0]["instruction"] in after
    assert "31 decisions of a review" in (place / PREPARED / "DATA_CARD.md").read_text(encoding="utf-8")
    assert project.repro("prepare-pdf-qa") == []


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    place = prepared_at(tmp_path_factory.mktemp("review"))
    with serving("review", place) as address:
        yield address, place


@pytest.fixture
def visit(browser: Any, served: tuple[str, Path]) -> Iterator[Callable[..., Visitor]]:
    with visiting(lambda **options: looking(browser, served[0], **options), served[0]) as opened:
        yield opened


@in_browser
@pytest.mark.slow
@pytest.mark.xdist_group("review")
def test_the_answer_is_marked_on_the_page_s_picture(visit: Callable[..., Visitor]) -> None:
    page = visit(locale="en-GB").page
    page.select_option("#file", "guide.pdf")
    page.locator("#sheet i").first.wait_for()
    picture, box = page.locator("#picture").bounding_box(), page.locator("#sheet i").first.bounding_box()
    assert picture and box and picture["width"] > 300
    assert picture["x"] < box["x"] and box["x"] + box["width"] < picture["x"] + picture["width"]
    page.click("#text summary")
    said = "".join(page.locator("#said mark").inner_text().split())
    assert said and said in "".join(page.locator("#said").inner_text().split())
    assert "".join(page.locator("#answer").inner_text().split())[:5] in said


@in_browser
@pytest.mark.slow
@pytest.mark.xdist_group("review")
def test_markup_is_text_whoever_wrote_it(visit: Callable[..., Visitor]) -> None:
    page = visit().page
    page.fill("#search", "onerror")
    page.locator("#question", has_text="onerror").wait_for()
    assert page.locator("#question").inner_text() == ROWS[1]["instruction"]
    page.locator("#answer", has_text="onerror").wait_for()
    assert page.locator("#answer").inner_text() == ROWS[1]["output"]
    assert page.title() == "Graft" and page.locator("article img, article script, article b, #list b").count() == 0
    assert page.locator("#page").is_hidden()  # a row without a PDF


@in_browser
@pytest.mark.slow
@pytest.mark.xdist_group("review")
def test_what_can_t_be_overruled_is_said_and_no_key_accepts_it(
    visit: Callable[..., Visitor], served: tuple[str, Path]
) -> None:
    page = visit().page
    page.select_option("#split", "dropped")
    for reason, kept in (("too_long_tokens", True), ("invalid_json", False)):
        page.select_option("#reason", reason)
        page.locator("#why", has_text=reason).wait_for()
        assert page.locator("[data-act=accept]").is_disabled()
        assert page.locator("[data-act=reject]").is_disabled() != kept
        page.keyboard.press("Escape")
        page.keyboard.press("a")
        page.locator("#told.bad").wait_for()
    assert tally(page)[1] == 0 and not (served[1] / FILE).exists()


@in_browser
@pytest.mark.slow
@pytest.mark.xdist_group("review")
def test_a_hangul_keyboard_and_an_abandoned_edit(visit: Callable[..., Visitor], served: tuple[str, Path]) -> None:
    page = visit().page
    page.select_option("#file", "guide.pdf")
    page.locator("#answer:text-matches('.')").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    page.locator("#new-answer").wait_for()
    page.keyboard.type("버릴 글")
    page.keyboard.press("Escape")
    assert page.locator("#change").is_hidden() and tally(page)[1] == 0
    page.evaluate("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'ㄱ', code: 'KeyR', bubbles: true}))")
    page.wait_for_selector("#tally:text-matches('제외 1')")
    page.keyboard.press("u")
    page.wait_for_selector("#tally:text-matches('제외 0')")


@in_browser
@pytest.mark.slow
@pytest.mark.xdist_group("review")
def test_a_phone_shows_everything_without_scrolling_sideways(visit: Callable[..., Visitor]) -> None:
    page = visit(viewport={"width": 390, "height": 844}).page
    for file in ("guide.pdf", "faq.jsonl"):
        page.select_option("#file", file)
        page.locator("#answer:text-matches('.')").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def prepared_by_hand(place: Path, count: int) -> Path:
    """A place with so many rows, none of them from a PDF."""
    rows = [
        {"id": f"row-{n}", "messages": [{"role": "user", "content": f"{n}번 질문은 무엇인가요?"},
                                        {"role": "assistant", "content": f"{n}번 답입니다."}],
         "source": {"file": f"faq-{n % 3}.jsonl", "line": n}}
        for n in range(count)
    ]  # fmt: skip
    (place / PREPARED).mkdir(parents=True)
    for split, part in (("train", rows), ("seen", []), ("unseen", [])):
        write_jsonl(place / PREPARED / f"{split}.jsonl", part)
    write_jsonl(place / PREPARED / "rejects.jsonl", [])
    write_json(place / PREPARED / "data_report.json", {})
    section = {"files": [str(OWN)], "pdfs": [str(OWN)], "max_tokens": 512}
    (place / "params.lock.yaml").write_text(yaml.safe_dump({"prepare_pdf_qa": section}), encoding="utf-8")
    return place


@in_browser
@pytest.mark.slow
@pytest.mark.xdist_group("review")
@pytest.mark.parametrize("count", [0, 10_000])
def test_no_row_and_ten_thousand(browser: Any, tmp_path: Path, count: int) -> None:
    with (
        serving("review", prepared_by_hand(tmp_path, count)) as address,
        visiting(lambda **options: looking(browser, address, **options), address) as visit,
    ):
        page = visit().page
        if count == 0:
            assert page.locator("#place").inner_text() == "검토할 행이 없습니다."
            for key in ("a", "r", "e", "j", "k", "u"):
                page.keyboard.press(key)
            page.locator("#told.bad", has_text="되돌릴 결정이 없습니다.").wait_for()
            assert tally(page) == [0] * 5 and not (tmp_path / FILE).exists()
            return
        assert page.locator("#list li").count() == 10
        for _ in range(10):
            page.keyboard.press("j")
        page.locator("#range", has_text="11–20 / 10000").wait_for()
        page.fill("#search", "9999번")
        page.locator("#question", has_text="9999번").wait_for()
        page.keyboard.press("Escape")
        begun = time.monotonic()
        page.keyboard.press("a")
        page.wait_for_selector("#tally:text-matches('10000개 중 1개 검토')")
        assert time.monotonic() - begun < 60  # it took 9 on a machine with ten times its work
        page.fill("#search", "")
        page.select_option("#state", "accept")
        page.locator("#range", has_text="1–1 / 1").wait_for()
        page.reload()
        page.locator("#question", has_text="9999번").wait_for()
        assert page.locator("#state").input_value() == "accept"
