"""The page's server by its requests, and the page in a browser as people use it."""

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import read_lineage, weights_sha256, write_lineage
from stages.lib.every_stage.records import read_jsonl
from stages.lib.preferences.votes import FILE, Vote, read_votes
from tests.browser import Visitor, in_browser, launched, serving, visiting
from tools.lib.append_only import append
from tools.lib.arena_app import Arena, arena_application
from tools.lib.chat_models import ChatModel, Sampling
from tools.lib.doorkeeper import names_of
from tools.lib.local_page import listening

WARM = Sampling(temperature=1.5, max_new_tokens=6)
HOSTILE = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script> & 초롱돌로 <b>417</b>"


@pytest.fixture(scope="module")
def tiny_models(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with models/base and a dpo-merged of other weights."""
    import torch
    from safetensors.torch import load_file, save_file

    place = tmp_path_factory.mktemp("arena")
    for name in ("base", "dpo-merged"):
        shutil.copytree(tiny_base, place / "models" / name)
    torch.manual_seed(1)
    weights = load_file(tiny_base / "model.safetensors")
    changed = {name: torch.randn_like(values.float()).mul(0.2).bfloat16() for name, values in weights.items()}
    save_file(changed, place / "models/dpo-merged/model.safetensors", metadata={"format": "pt"})
    write_lineage(place / "models/dpo-merged", read_lineage(place / "models/dpo-merged"))
    return place


@pytest.fixture(scope="module")
def models(tiny_models: Path) -> list[ChatModel]:
    return [
        ChatModel("base", tiny_models / "models/base"),
        ChatModel("dpo", tiny_models / "models/dpo-merged"),
    ]


@pytest.fixture
def client(models: list[ChatModel], tmp_path: Path) -> Any:
    from starlette.testclient import TestClient

    arena = Arena(models, tmp_path, WARM, None)
    return TestClient(arena_application(arena, ["127.0.0.1"]), base_url="http://127.0.0.1")


def lines(response: Any) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def fought(client: Any, question: str = "주소는 어디인가요?", **more: Any) -> list[dict[str, Any]]:
    return lines(client.post("/api/battle", json={"question": question, **more}))


def said(told: list[dict[str, Any]], side: str) -> str:
    return "".join(line["text"] for line in told if line.get("side") == side).strip()


def test_a_vote_is_kept_with_all_that_it_was_given_on(client: Any, tmp_path: Path, tiny_models: Path) -> None:
    told = fought(client, " 주소는  어디인가요? ")
    assert told[-1] == {"ready": True}
    revealed = client.post("/api/vote", json={"battle": told[0]["battle"], "verdict": "second"}).json()
    assert {revealed["first"], revealed["second"]} == {"base", "dpo"}
    (vote,) = read_votes(tmp_path)
    assert isinstance(vote, Vote)
    assert (vote.first, vote.second, vote.verdict) == (revealed["first"], revealed["second"], "second")
    assert (vote.question, vote.by) == ("주소는  어디인가요?", "person")
    assert (vote.first_answer, vote.second_answer) == (said(told, "first"), said(told, "second"))
    directories = {"base": "models/base", "dpo": "models/dpo-merged"}
    assert vote.first_weights_sha256 == weights_sha256(tiny_models / directories[vote.first])
    assert vote.second_weights_sha256 == weights_sha256(tiny_models / directories[vote.second])
    ends = {line["side"]: line["end"] == "stop" for line in told if line.get("end")}
    assert (vote.first_stopped, vote.second_stopped) == (ends["first"], ends["second"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", vote.time)
    assert revealed["votes"]["count"] == 1
    assert "주소는" in (tmp_path / FILE).read_text(encoding="utf-8")


def test_nothing_tells_who_answers_before_the_vote_and_sides_are_drawn(client: Any) -> None:
    orders = set()
    for _ in range(12):
        told = fought(client)
        text = json.dumps([line for line in told if "text" not in line])
        assert "dpo" not in text and "base" not in text
        revealed = client.post("/api/vote", json={"battle": told[0]["battle"], "verdict": "tie"}).json()
        orders.add((revealed["first"], revealed["second"]))
    assert orders == {("dpo", "base"), ("base", "dpo")}


def test_one_question_is_voted_on_once(client: Any, tmp_path: Path) -> None:
    told = fought(client)
    ballot = {"battle": told[0]["battle"], "verdict": "both_bad"}
    assert client.post("/api/vote", json=ballot).status_code == 200
    again = client.post("/api/vote", json=ballot)
    assert again.json() == {"error": "unknown_battle"}
    assert len(read_votes(tmp_path)) == 1


def test_a_vote_can_be_taken_back_once_and_others_stay(client: Any, tmp_path: Path) -> None:
    fights = [fought(client, question)[0]["battle"] for question in ("주소는?", "전화는?", "요금은?")]
    for battle in fights:
        client.post("/api/vote", json={"battle": battle, "verdict": "first"})
    undone = client.post("/api/undo", json={"battle": fights[1]})
    assert undone.json()["votes"]["count"] == 2
    kept = read_votes(tmp_path)
    assert all(isinstance(vote, Vote) for vote in kept)
    assert [vote.id for vote in kept if isinstance(vote, Vote)] == [fights[0], fights[2]]
    for nothing in (fights[1], "f" * 32):
        assert client.post("/api/undo", json={"battle": nothing}).json() == {"error": "nothing_to_undo"}
    again = client.post("/api/vote", json={"battle": fights[1], "verdict": "second"})
    assert again.json() == {"error": "unknown_battle"}  # who answered was seen
    assert len(read_votes(tmp_path)) == 2


def test_equal_answers_are_a_tie_without_asking(models: list[ChatModel], tiny_models: Path, tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    twin = ChatModel("sft", tiny_models / "models/base")
    arena = Arena([models[0], twin], tmp_path, Sampling(0.0, max_new_tokens=5), None)
    told = fought(TestClient(arena_application(arena, ["testserver"])))
    assert told[-1]["identical"] is True
    assert {told[-1]["first"], told[-1]["second"]} == {"base", "sft"}
    (vote,) = read_votes(tmp_path)
    assert isinstance(vote, Vote) and (vote.verdict, vote.by) == ("tie", "identical")


def test_a_chat_is_streamed_and_truncated_where_it_is_too_long(client: Any) -> None:
    turns = [{"role": role, "content": "가" * 300} for _ in range(3) for role in ("user", "assistant")][:-1]
    told = lines(client.post("/api/chat", json={"model": "dpo", "messages": turns}))
    assert told[0] == {"dropped": 1} and told[-1]["end"] in ("stop", "limit")
    refused = client.post("/api/chat", json={"model": "dpo", "messages": [{"role": "user", "content": "가" * 10_000}]})
    assert (refused.json()["error"], refused.json()["room"]) == ("too_long", 1018)


@pytest.mark.parametrize(
    ("path", "content", "status", "said"),
    [
        ("/api/chat", {"model": "sft", "messages": [{"role": "user", "content": "?"}]}, 400, "found base, dpo"),
        ("/api/chat", {"model": "dpo", "messages": []}, 422, "at least 1 item"),
        ("/api/chat", {"model": "dpo", "messages": [{"role": "user", "content": "  "}]}, 422, "at least 1 character"),
        ("/api/battle", {"question": "?", "models": ["dpo", "dpo"]}, 400, "two different models"),
        ("/api/battle", {"question": "?", "pair": "dpo"}, 422, "Extra inputs"),
        ("/api/vote", {"battle": "a", "verdict": "left"}, 422, "first"),
    ],
)
def test_what_can_t_be_done_is_said(client: Any, path: str, content: Any, status: int, said: str) -> None:
    refused = client.post(path, json=content)
    assert refused.status_code == status and said in refused.json()["error"]


def test_pages_from_elsewhere_get_nothing(client: Any, tmp_path: Path) -> None:
    """A form or a script of another site may send text/plain here unasked, and its name may be made to lead here."""
    told = fought(client)
    ballot = json.dumps({"battle": told[0]["battle"], "verdict": "first"})
    unasked = client.post("/api/vote", content=ballot, headers={"Content-Type": "text/plain"})
    assert unasked.status_code == 400 and not read_votes(tmp_path)
    assert client.get("/", headers={"Host": "rebound.example"}).status_code == 400
    half = b'{"question": "\\ud800"}'
    assert client.post("/api/battle", content=half, headers={"Content-Type": "application/json"}).status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Host": "evil.example"}, 400),
        ({"Host": "127.0.0.1.evil.example"}, 400),
        ({"Host": "192.0.2.7:8765"}, 400),
        ({"Host": ""}, 400),
        ({"Host": "[::1"}, 400),
    ],
    ids=str,
)
def test_only_its_own_page_under_its_own_name_is_answered(client: Any, headers: dict[str, str], status: int) -> None:
    assert client.post("/api/battle", json={"question": "?"}, headers=headers).status_code == status
    assert client.get("/api/state", headers=headers).status_code == status


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::"])
def test_bound_to_another_address_it_answers_to_numbers_and_named_hosts(models: list[ChatModel], host: str) -> None:
    from starlette.testclient import TestClient

    app = arena_application(Arena(models, Path("votes"), WARM, None), names_of(host, ["lab.example"]))
    client = TestClient(app, base_url="http://192.0.2.7:8765")
    assert client.get("/").status_code == 200
    for name in ("lab.example", "LAB.example:8765", "localhost", "[2001:db8::1]:8765"):
        assert client.get("/", headers={"Host": name}).status_code == 200
    for name in ("rebound.example", "lab.example.evil.example"):
        assert client.get("/", headers={"Host": name}).status_code == 400


def test_too_much_and_too_deep_are_answers_not_tracebacks(client: Any) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 100_000

    headers = {"Content-Type": "application/json"}
    for content in (b"x" * 2_000_000, pieces()):
        refused = client.post("/api/battle", content=content, headers=headers)
        assert refused.status_code == 413 and "MiB" in refused.json()["error"]
    for deep in (b"[" * 200_000, b'{"question": ' * 50_000, b"1" * 10_000):
        refused = client.post("/api/battle", content=deep, headers=headers)
        assert refused.status_code == 400 and "needed it" in refused.json()["error"]


def test_votes_of_many_processes_at_once_are_all_whole(tmp_path: Path, client: Any) -> None:
    told = fought(client)
    client.post("/api/vote", json={"battle": told[0]["battle"], "verdict": "first"})
    code = (
        "import sys; from pathlib import Path\n"
        "from stages.lib.preferences.votes import *; from tools.lib.append_only import append\n"
        "vote = read_votes(Path(sys.argv[1]))[0]\n"
        "for n in range(40): append(vote.model_copy(update={'id': f'{sys.argv[2]}-{n}', 'question': '가' * 5000}), "
        "Path(sys.argv[1]) / FILE, 'vote')"
    )
    voters = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(number)], cwd=ROOT) for number in range(3)
    ]
    assert [voter.wait() for voter in voters] == [0, 0, 0]
    votes = read_votes(tmp_path)
    assert len(votes) == 121
    assert len({vote.id for vote in votes if isinstance(vote, Vote)}) == 121


def test_a_line_truncated_by_a_crash_takes_no_other_with_it(tmp_path: Path, client: Any) -> None:
    told = fought(client)
    (tmp_path / FILE).write_text('{"id": "half', encoding="utf-8")
    client.post("/api/vote", json={"battle": told[0]["battle"], "verdict": "first"})
    found = read_votes(tmp_path)
    assert [isinstance(vote, Vote) for vote in found] == [False, True]


def test_a_vote_that_can_t_be_written_is_not_lost(tmp_path: Path, client: Any) -> None:
    told = fought(client)
    (tmp_path / FILE).mkdir()
    ballot = {"battle": told[0]["battle"], "verdict": "first"}
    refused = client.post("/api/vote", json=ballot)
    assert refused.status_code == 400 and "the vote can't be written" in refused.json()["error"]
    (tmp_path / FILE).rmdir()
    assert client.post("/api/vote", json=ballot).status_code == 200


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told = fought(client)
    client.post("/api/vote", json={"battle": told[0]["battle"], "verdict": "first"})
    (vote,) = read_votes(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:10]))
    with pytest.raises(UserError, match="no space left for a whole line"):
        append(vote, tmp_path / FILE, "vote")  # type: ignore[arg-type]
    assert (tmp_path / FILE).read_bytes() == before


def test_an_answer_nobody_waits_for_is_broken_off(models: list[ChatModel], tmp_path: Path) -> None:
    import uvicorn

    arena = Arena(models, tmp_path, Sampling(3.0, 1.0, max_new_tokens=900), 3.0)
    with listening("127.0.0.1", 0) as socket:
        server = uvicorn.Server(uvicorn.Config(arena_application(arena, ["127.0.0.1"]), log_level="warning"))
        running = threading.Thread(target=server.run, args=([socket],))
        running.start()
        question = {"model": "base", "messages": [{"role": "user", "content": "?"}]}
        for _ in range(3):  # a chance of 1 in 600 for each token that the model stops by itself
            connection = http.client.HTTPConnection(*socket.getsockname())
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/api/chat", json.dumps(question), headers)
            assert connection.getresponse().readline()
            connection.close()
            while arena.turn.locked():
                time.sleep(0.01)
            if broken_off := len(models[0].seen) < 300:
                break
        server.should_exit = True
        running.join()
    assert broken_off


def test_the_page_asks_nobody_and_runs_nothing_else(client: Any) -> None:
    answer = client.get("/")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert not re.findall(
        r"""(?:src|href)=["']?(?!data:)[^"' >]+|url\(|https?://|innerHTML|insertAdjacent""", answer.text
    )


def test_a_port_that_is_taken_is_named() -> None:
    with listening("127.0.0.1", 0) as taken, pytest.raises(UserError, match="can't be had.*--port"):
        listening("127.0.0.1", taken.getsockname()[1])


# ---- in a browser ----


@pytest.fixture(scope="module")
def served(tiny_models: Path) -> Iterator[tuple[str, Path]]:
    """The page's address and the file of its votes."""
    with serving(
        "arena", tiny_models, "--threads", "1", "--max-new-tokens", "40", "--temperature", "1.5", "--top-p", "1"
    ) as address:
        yield address, tiny_models / "data/raw/votes" / FILE


class Talker(Visitor):
    """A window of the arena."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        super().__init__(browser, address, "#model option", **options)

    def ask(self, field: str, text: str) -> None:
        self.page.fill(field, text)
        self.page.press(field, "Enter")

    def answered(self, count: int = 1) -> str:
        """The count-th answer of the chat, once it is whole."""
        self.wait(f".turn:not(.user, .waits) >> nth={count - 1}")
        return self.page.locator(".turn:not(.user)").nth(count - 1).inner_text()

    def fight(self, question: str) -> None:
        self.ask("#question", question)
        self.wait("#votes:not([hidden])")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def visit(browser: Any, served: tuple[str, Path]) -> Iterator[Callable[..., Talker]]:
    with visiting(lambda **options: Talker(browser, served[0], **options), served[0]) as opened:
        yield opened


@in_browser
@pytest.mark.slow
@pytest.mark.xdist_group("arena")
def test_chat_arena_vote_reveal_and_reload(visit: Callable[..., Talker], served: tuple[str, Path]) -> None:
    visitor = visit()
    page = visitor.page
    assert page.locator("html").get_attribute("lang") == "ko"
    visitor.ask("#message", "안녕하세요? 😀")
    assert visitor.answered()
    visitor.ask("#message", "그리고요?")
    assert visitor.answered(2)
    assert page.locator(".turn.user").all_inner_texts() == ["안녕하세요? 😀", "그리고요?"]

    page.click("#arena-tab")
    visitor.fight("주소는 어디인가요?")
    assert page.locator("article h2").all_inner_texts() == ["왼쪽", "오른쪽"]
    answers = page.locator("article p").all_inner_texts()
    before = len(read_votes(served[1].parent))
    page.click("[data-verdict=second]")
    visitor.wait("article.won h2 b")
    names = page.locator("article h2 b").all_inner_texts()
    assert sorted(names) == ["base", "dpo"]
    votes = list(read_jsonl(served[1]))
    assert len(votes) == before + 1
    assert [votes[-1]["first"], votes[-1]["second"]] == names
    assert votes[-1]["verdict"] == "second"
    assert votes[-1]["question"] == "주소는 어디인가요?"
    shown = [" ".join(text.split()) for text in answers]
    assert [" ".join(votes[-1][f"{side}_answer"].split()) for side in ("first", "second")] == shown
    assert page.locator("#count").inner_text() == f"지금까지 투표 {before + 1}개"
    page.click("#undo")
    visitor.wait("#told:text-matches('투표를 취소했습니다')")
    assert page.locator("#after").is_hidden() and len(read_votes(served[1].parent)) == before
    visitor.fight("주소는 어디인가요?")
    page.click("[data-verdict=tie]")
    visitor.wait("article h2 b")
    page.click("#next")
    assert page.evaluate("document.activeElement.id") == "question"
    page.reload()
    visitor.wait(f"#arena:not([hidden]) #count:text-is('지금까지 투표 {before + 1}개')")


@in_browser
@pytest.mark.slow
@pytest.mark.xdist_group("arena")
def test_two_browsers_at_once(visit: Callable[..., Talker], served: tuple[str, Path]) -> None:
    one, other = visit(), visit()
    before = len(read_votes(served[1].parent))
    for visitor in (one, other):
        visitor.page.click("#arena-tab")
        visitor.ask("#question", "몇 시에 여나요?")
    for visitor, verdict in ((other, "tie"), (one, "both_bad")):
        visitor.wait("#votes:not([hidden])")
        visitor.page.click(f"[data-verdict={verdict}]")
        visitor.wait("article h2 b")
    assert [row["verdict"] for row in read_jsonl(served[1])][before:] == ["tie", "both_bad"]
    one.page.click("#chat-tab")
    one.ask("#message", "가")
    other.page.click("#chat-tab")
    other.ask("#message", "나")
    assert one.answered() and other.answered()


@in_browser
@pytest.mark.slow
@pytest.mark.xdist_group("arena")
def test_markup_is_text_whoever_wrote_it(visit: Callable[..., Talker]) -> None:
    visitor = visit()
    page = visitor.page
    visitor.ask("#message", HOSTILE)
    visitor.answered()
    assert page.locator(".turn.user").inner_text() == HOSTILE
    told = [{"battle": "x"}, *({"side": side, "text": HOSTILE, "end": "stop"} for side in ("first", "second"))]
    body = "".join(json.dumps(line) + "\n" for line in [*told, {"ready": True}])
    page.route("**/api/battle", lambda route: route.fulfill(body=body, content_type="application/x-ndjson"))
    page.click("#arena-tab")
    visitor.fight(HOSTILE)
    assert page.locator("article p").all_inner_texts() == [HOSTILE, HOSTILE]
    assert page.title() == "Graft"
    assert page.locator("main img, main script, article b").count() == 0


@in_browser
@pytest.mark.slow
@pytest.mark.xdist_group("arena")
def test_a_keyboard_is_enough(visit: Callable[..., Talker], served: tuple[str, Path]) -> None:
    visitor = visit()
    page = visitor.page
    assert page.evaluate("document.activeElement.id") == "message"
    page.keyboard.type("안녕")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("하세요")
    composing = "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true, cancelable: true})"
    page.evaluate(f"document.activeElement.dispatchEvent({composing})")  # Enter that ends a syllable sends nothing
    assert page.locator(".turn").count() == 0
    page.keyboard.press("Enter")
    assert visitor.answered()
    assert page.locator(".turn.user").inner_text() == "안녕\n하세요"
    for _ in range(3):
        page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.id") == "chat-tab"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type("주소?")
    page.keyboard.press("Enter")
    visitor.wait("#votes:not([hidden])")
    before = len(read_votes(served[1].parent))
    page.keyboard.press("Enter")  # an impatient one votes for nobody
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    visitor.wait("article h2 b")
    assert [row["verdict"] for row in read_jsonl(served[1])][before:] == ["second"]
    assert page.evaluate("document.activeElement.id") == "question"


@in_browser
@pytest.mark.slow
@pytest.mark.xdist_group("arena")
def test_a_phone_shows_everything_without_scrolling_sideways(visit: Callable[..., Talker]) -> None:
    page = visit(viewport={"width": 390, "height": 844}).page
    page.click("#arena-tab")
    page.fill("#question", "긴낱말" * 60)
    page.press("#question", "Enter")
    page.locator("#votes").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("[data-verdict=first]").inner_text() == "위쪽이 낫다"
    heights = [
        box["height"] for box in (button.bounding_box() for button in page.locator("button:visible").all()) if box
    ]
    assert min(heights) >= 38  # a finger's width


@in_browser
@pytest.mark.slow
@pytest.mark.xdist_group("arena")
def test_what_can_t_be_done_is_said_and_the_text_given_back(visit: Callable[..., Talker]) -> None:
    visitor = visit()
    page = visitor.page
    visitor.ask("#message", "가" * 10_000)
    visitor.wait("#talk .note.bad:text-matches('메시지가 너무 깁니다: 1....토큰')")
    assert len(page.locator("#message").input_value()) == 10_000
    page.click("#arena-tab")
    visitor.ask("#question", "가" * 10_000)
    visitor.wait("#told.bad:text-matches('메시지가 너무 깁니다')")
    page.route("**/api/vote", lambda route: route.fulfill(body='{"error": "unknown_battle"}'))
    visitor.fight("가?")
    page.click("[data-verdict=tie]")
    visitor.wait("#told.bad:text-matches('다시 질문해 주세요')")
    assert page.locator("#votes").is_hidden()


@in_browser
@pytest.mark.slow
@pytest.mark.xdist_group("arena")
def test_stop_gives_the_question_back(visit: Callable[..., Talker]) -> None:
    visitor = visit()
    page = visitor.page
    page.route("**/api/chat", lambda route: None)  # an answer that never begins
    visitor.ask("#message", "길게 말해 주세요.")
    visitor.wait(".turn.waits")
    page.click("#say button")
    visitor.wait("#talk .note:text-is('멈췄습니다.')")
    assert page.locator("#message").input_value() == "길게 말해 주세요."
    assert page.locator(".turn").count() == 0
    page.unroute("**/api/chat")
    page.press("#message", "Enter")
    assert visitor.answered()
