"""A server on loopback that answers OpenAI's chat completions, or fails as told."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ChatModel:
    """`answer` makes a response of a prompt; `failures` are statuses that the first requests get instead."""

    answer: Callable[[str], str]
    failures: list[int] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    endpoint: str = ""


@contextmanager
def chatting(model: ChatModel) -> Iterator[ChatModel]:
    """Serve `model` on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            model.requests.append(request | {"path": self.path})
            model.keys.append(self.headers.get("Authorization", ""))
            status = model.failures.pop(0) if model.failures else 200
            content = model.answer(request["messages"][0]["content"]) if status == 200 else ""
            completion = {"choices": [{"message": {"role": "assistant", "content": content}}]}
            body = json.dumps(completion if status == 200 else {"error": {"message": "no"}}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    model.endpoint = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
