"""Answers of the Hub that come too slowly are given up.

Its client bounds the wait for the next piece of an answer, however small: a server, or a proxy, that sends a byte now
and then is waited for without an end, and some of the client's calls wait without any bound. The names are curl's
(--speed-limit, --speed-time) and Git's (http.lowSpeedLimit, http.lowSpeedTime).

Large files of the Hub can come by Xet too, which fetches them past the client, bounds the wait for a piece alone, and
fails by errors that nobody else raises. They come by the client here, unless HF_HUB_DISABLE_XET=0 is set.
"""

import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from httpx2 import Client, Request, Response, SyncByteStream
from huggingface_hub import constants, get_session, set_client_factory

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.foreign_text import on_one_line

LOW_SPEED_LIMIT = 1000
"""Bytes a second: of what people download models by, the slowest gives a hundred times as many."""
LOW_SPEED_TIME = 60.0
"""Seconds that an answer may come more slowly than that, and that nothing at all may come."""


@cache
def give_up_slow_answers() -> None:
    """Have the Hub's client fetch all files itself, and raise UserError for an answer that comes too slowly."""
    if "HF_HUB_DISABLE_XET" not in os.environ:
        constants.HF_HUB_DISABLE_XET = True  # the variable is read when the client is imported, this at each download
    own = get_session()
    hooks: dict[str, list[Callable[..., Any]]] = {
        "request": [*own.event_hooks["request"], bound_silence],
        "response": [*own.event_hooks["response"], watch],
    }

    def client() -> Client:
        return Client(event_hooks=hooks, follow_redirects=own.follow_redirects, timeout=own.timeout)

    set_client_factory(client)


def bound_silence(request: Request) -> None:
    """Bound the waits of a request that has none bound."""
    known = request.extensions.get("timeout") or {}
    bounds = {name: LOW_SPEED_TIME for name in ("connect", "read", "write") if known.get(name) is None}
    request.extensions = {**request.extensions, "timeout": {**known, **bounds}}


def watch(response: Response) -> None:
    """Have what reads a response raise UserError where it comes too slowly."""
    if isinstance(response.stream, SyncByteStream):
        response.stream = Watched(response.stream, f"{response.url.host}{response.url.path}")


class Watched(SyncByteStream):
    """The pieces of a response as they come. The time that its reader takes between them isn't counted."""

    def __init__(self, stream: SyncByteStream, address: str) -> None:
        self.stream, self.address = stream, address

    def __iter__(self) -> Iterator[bytes]:
        pieces, waited, came = iter(self.stream), 0.0, 0
        while True:
            began = time.monotonic()
            piece = next(pieces, None)
            waited, came = waited + time.monotonic() - began, came + len(piece or b"")
            if piece is None:
                return
            if waited >= LOW_SPEED_TIME:
                self.refuse_low_speed(waited, came)
                waited, came = 0.0, 0
            yield piece

    def refuse_low_speed(self, waited: float, came: int) -> None:
        if came < LOW_SPEED_LIMIT * waited:
            raise UserError(
                f"{on_one_line(self.address)}: found {came} bytes in {waited:.0f} s, needed {LOW_SPEED_LIMIT} a "
                "second: the Hub, or a proxy in between, is too slow. Run again later"
            )

    def close(self) -> None:
        self.stream.close()
