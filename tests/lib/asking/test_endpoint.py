"""Endpoints that fail in every way: each is one sentence, in bounded time, and none ever sees or shows a stray key."""

import json
import multiprocessing
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.lib.asking import endpoint
from stages.lib.asking.answer_models import cached, make_ask
from stages.lib.every_stage.errors import UserError
from stages.lib.schema.choices import Backend
from stages.lib.schema.data import Generate

SECRET = "sk-0123456789secret"
ANSWER = json.dumps({"choices": [{"message": {"content": "네"}}]}).encode()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "PAUSE", 0.0)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


def response(body: bytes, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", "Connection: close"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def complete(request: bytes) -> bool:
    """Whether all of a request has come: closing before would break off what is answered."""
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


@contextmanager
def server(*answers: bytes | Callable[[socket.socket], None]) -> Iterator[tuple[str, list[bytes]]]:
    """An address that gives each connection the next of the answers, the last one again; and what it was sent."""
    listening, sent = socket.create_server(("127.0.0.1", 0)), []

    def serve() -> None:
        for number in range(100):
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                request = b""
                while not complete(request):
                    request += connection.recv(65536)
                sent.append(request)
                answer = answers[min(number, len(answers) - 1)]
                with suppress(OSError):
                    connection.sendall(answer) if isinstance(answer, bytes) else answer(connection)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1", sent
    finally:
        listening.close()


def ask(address: str, tmp_path: Path) -> str:
    section = Generate(Backend.openai, model="m", endpoint=address)
    return make_ask(section, tmp_path / "responses", "judge")("질문?")


FAULTS: dict[str, tuple[bytes, str]] = {
    "a status that stays": (response(b"no", "401 Unauthorized"), "answered 401: no. Check judge and OPENAI_API_KEY"),
    "a key in the answer": (response(f"bad key {SECRET}".encode(), "401 No"), "answered 401: bad key …"),
    "a web page": (
        response(b"<!doctype html><title>Sign\n in</title>"),
        r"found a web page \(HTML\) 'Sign in', needed",
    ),
    "a web page of failure": (response(b"<html>", "404 Not Found"), r"answered 404: a web page \(HTML\)"),
    "half a body": (response(ANSWER, length=9999), "breaks off"),
    "no HTTP": (b"\x00\x01garbage\r\n\r\n", "can't be reached, or its answer breaks off"),
    "nothing": (b"", "can't be reached, or its answer breaks off"),
    "deep JSON": (response(b"[" * 200_000), r"found \[\[\[\["),
    "another JSON": (response(b'{"choices": []}'), "needed a chat completion with"),
    "bytes": (response(b"\xff\x1b]0;title\x07"), r"found �\\x1b\]0;title\\x07, needed"),
    "too much": (response(b"x" * (endpoint.LARGEST + 1)), "answered more than 8 MiB"),
    "a long wait": (response(b"", "429 Too Many", "Retry-After: 3600"), "answered 429: , and asks to wait for 3600 s"),
    "no number of seconds": (response(b"", "429 Too Many", "Retry-After: ²"), "answered 429: . Check"),
    "failure upon failure": (response(b"down", "503 Unavailable"), "answered 503: down. Check"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_sentence_without_the_key(fault, tmp_path):
    answer, said = FAULTS[fault]
    with server(answer) as (address, _), pytest.raises(UserError, match=said) as refused:
        ask(address, tmp_path)
    assert SECRET not in str(refused.value)
    assert not list((tmp_path).glob("responses/*"))


def test_what_passes_is_tried_again_after_as_long_as_was_asked(tmp_path):
    busy = response(b"", "429 Too Many Requests", "Retry-After: 1")
    with server(busy, response(b"", "500 Oops"), response(ANSWER, length=999), response(ANSWER)) as (address, sent):
        began = time.monotonic()
        assert ask(address, tmp_path) == "네"
    assert len(sent) == 4
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_no_redirect_carries_the_key_on(status, tmp_path):
    with server(response(ANSWER)) as (elsewhere, received):
        moved = response(b"", status, f"Location: {elsewhere}/chat/completions")
        with server(moved) as (address, _), pytest.raises(UserError, match=f"answered {status[:3]}, go to {elsewhere}"):
            ask(address, tmp_path)
    assert received == []


def test_a_byte_a_moment_and_silence_end_at_the_deadline_with_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(endpoint, "DEADLINE", 1.0)
    monkeypatch.setattr(endpoint, "PROGRESS", 0.3)

    def drip(connection: socket.socket) -> None:
        for byte in response(ANSWER):
            connection.sendall(bytes([byte]))
            time.sleep(0.1)

    for answer in (drip, lambda connection: time.sleep(5)):
        began = time.monotonic()
        with server(answer) as (address, _), pytest.raises(UserError, match="no whole answer in 1 s"):
            ask(address, tmp_path)
        assert time.monotonic() - began < 3
    assert "waiting for an answer for" in capsys.readouterr().out


def test_a_key_from_a_file_with_windows_lines_is_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {SECRET}\r\n")
    with server(response(ANSWER)) as (address, sent):
        ask(address, tmp_path)
    assert f"authorization: bearer {SECRET}\r\n" in sent[0].decode().lower()


@pytest.mark.parametrize("key", [f"{SECRET}\r\nX: y", f"sk 1{SECRET}", f"{SECRET}é", f"{SECRET}\x00"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(key, tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint.os, "environ", {"OPENAI_API_KEY": key})
    with (
        server(response(ANSWER)) as (address, sent),
        pytest.raises(UserError, match="API_KEY: found") as refused,
    ):
        ask(address, tmp_path)
    assert SECRET not in str(refused.value) and sent == []


def test_a_password_in_an_address_is_not_shown(tmp_path):
    with server(response(b"", "404 No")) as (address, _), pytest.raises(UserError) as refused:
        ask(address.replace("//", "//me:hidden@"), tmp_path)
    assert "hidden" not in str(refused.value)


def test_half_a_cached_response_is_asked_for_again(tmp_path):
    asked: list[str] = []
    once = cached(lambda prompt: asked.append(prompt) or "네", "m", tmp_path / "responses")
    assert once("질문?") == "네"
    (path,) = (tmp_path / "responses").iterdir()
    for half in ('{"prompt": "질', "", "[]", '{"response": 3}'):
        path.write_text(half, encoding="utf-8")
        assert once("질문?") == "네"
    assert len(asked) == 5
    assert (tmp_path / "responses").stat().st_mode & 0o777 == 0o700


def test_a_response_that_cant_be_used_is_not_kept_and_one_kept_before_is_asked_for_again(tmp_path):
    asked: list[str] = []
    once = cached(lambda prompt: asked.append(prompt) or f"{len(asked)}", "m", tmp_path / "responses")
    assert [once("질문?", "3".__eq__) for _ in range(4)] == ["1", "2", "3", "3"]
    assert [once("질문?", "5".__eq__) for _ in range(3)] == ["4", "5", "5"]


def test_a_model_that_came_to_no_text_within_its_tokens_says_nothing(tmp_path):
    thought = {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}
    with server(response(json.dumps(thought).encode())) as (address, _):
        assert ask(address, tmp_path) == ""


def test_other_weights_in_a_directory_are_asked_anew(tmp_path, tiny_base):
    directory = tmp_path / "model"
    shutil.copytree(tiny_base, directory)
    section = Generate(Backend.huggingface, model=str(directory), max_new_tokens=2)
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights = load_file(directory / "model.safetensors")
        name = min(weights)
        weights[name] = torch.randn(weights[name].shape).to(weights[name].dtype)
        save_file(weights, directory / "model.safetensors", {"format": "pt"})
        make_ask(section, tmp_path / "responses", "judge")("질문?")
    assert len(list((tmp_path / "responses").rglob("*.json"))) == 2


def test_two_processes_that_write_one_response_leave_a_whole_one(tmp_path):
    """Both have asked before either writes."""
    context = multiprocessing.get_context("fork")
    together = context.Barrier(2)

    def answer(prompt: str) -> str:
        together.wait()
        return "네"

    workers = [context.Process(target=cached(answer, "m", tmp_path / "responses"), args=("질문?",)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    (path,) = (tmp_path / "responses").iterdir()
    assert json.loads(path.read_text(encoding="utf-8"))["response"] == "네"
