"""What llama.cpp makes of a GGUF file: tokens of a text, a conversation's text, answers, and how fast they come."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat_template import Messages
from stages.lib.quantizing import llama_child
from stages.lib.quantizing.children import command_of, end_of, environment

SECONDS = 600.0
"""For one answer: a token of a large model on few cores takes a second."""
GREEDY: dict[str, Any] = {
    "temperature": 0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "dry_multiplier": 0.0,
}
"""The likeliest token, whatever a file's metadata or a version of llama.cpp would draw by."""


@dataclass
class Completion:
    """An answer: its tokens, the one that ended it left out, whether it ended by itself, and milliseconds for all."""

    tokens: list[int]
    stopped: bool
    milliseconds: float


class LlamaServer:
    """A server of llama.cpp at an address of this machine."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.opener = build_opener(ProxyHandler({}))  # nothing that is asked here goes through a proxy

    def opened(self, path: str, body: dict[str, Any]) -> Any:
        """The response to a POST of JSON. Raises UserError with llama.cpp's own words where it refuses."""
        request = Request(
            self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            return self.opener.open(request, timeout=SECONDS)
        except HTTPError as error:
            raise UserError(f"llama.cpp refuses {path}: {error.read().decode('utf-8', 'replace')[:300]}") from None
        except OSError as error:
            raise UserError(f"llama.cpp doesn't answer: {error}. Its log is above; run it again") from None

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        with self.opened(path, body) as response:
            found: dict[str, Any] = json.load(response)
        return found

    def tokenise(self, text: str) -> list[int]:
        """A rendered conversation's tokens, with the BOS token where the file says that one is put before all texts."""
        tokens: list[int] = self.ask("/tokenize", {"content": text, "add_special": True, "parse_special": True})[
            "tokens"
        ]
        return tokens

    def render(self, messages: Messages) -> str:
        """A conversation's text, up to where the answer begins, by the template in the file."""
        return str(self.ask("/apply-template", {"messages": messages})["prompt"])

    def answer(self, prompt: list[int], max_new_tokens: int, stops: set[int]) -> Completion:
        """The greedy answer to a prompt of tokens, of which nothing is kept for the next."""
        body = {"prompt": prompt, "n_predict": max_new_tokens, "return_tokens": True, "cache_prompt": False, **GREEDY}
        found = self.ask("/completion", body)
        tokens: list[int] = found["tokens"]
        end = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
        return Completion(tokens[:end], found["stop_type"] == "eos", float(found["timings"]["predicted_ms"]))

    def pieces(self, prompt: list[int], options: dict[str, Any]) -> Generator[tuple[str, str], None, None]:
        """An answer's text as it comes, each piece with why it is the last: "eos", "limit", or "" where it isn't.

        Closing the iterator ends the answer.
        """
        with self.opened("/completion", {"prompt": prompt, "stream": True, **options}) as response:
            for line in response:
                if line.startswith(b"data: "):
                    event = json.loads(line.removeprefix(b"data: "))
                    yield event["content"], event["stop_type"] if event["stop"] else ""


@contextmanager
def llama_server(file: Path, threads: int, context: int) -> Iterator[LlamaServer]:
    """llama.cpp's server with `file`, for prompts and answers of `context` tokens in all (0: all that it can).

    Raises UserError with the end of llama.cpp's log for a file that it can't load.
    """
    words = command_of(llama_child.__name__, str(file), "--threads", str(threads), "--context", str(context))
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(words, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        try:
            assert child.stdout
            if not (address := first_address(child.stdout)):
                child.wait()
                raise UserError(
                    f"{file}: llama.cpp can't load it: {end_of(log)}. Leave its format out of quantize.formats"
                )
            yield LlamaServer(address)
        finally:
            child.terminate()
            child.communicate()


def first_address(output: IO[bytes]) -> str:
    """The first line that is an address; "" where the child ended before."""
    return next((line.decode().strip() for line in output if line.startswith(b"http")), "")
