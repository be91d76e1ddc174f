"""What a request to a local page must be: to a name that it answers to, from its own page, of some size.

A page of another site can send requests here from a visitor's browser, and can have its own name lead here (DNS
rebinding): the browser then takes this server for that site's.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST = 2**20
"""Bytes of a request's body; a long conversation has some thousand."""
LOCAL = ["127.0.0.1", "localhost", "::1"]


def names_of(host: str, more: list[str]) -> list[str]:
    """The names that a server bound to `host` answers to, beside `more`; "ip" stands for every address in numbers.

    No name can be made to lead to a number, so those need no list.
    """
    return [*LOCAL, *more] if host in LOCAL else [*LOCAL, "ip", host, socket.gethostname(), *more]


class TooLarge(Exception):
    """A body of more than LARGEST bytes."""


class Doorkeeper:
    """Middleware that turns away what it must: 400 for another name, 403 for another site's page, 413 for too much."""

    def __init__(self, app: ASGIApp, names: list[str]) -> None:
        self.app = app
        self.names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        from starlette.responses import JSONResponse

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        status, error = 0, ""
        if not self.answers_to(host):
            status, error = 400, "found another Host than this server's names; add yours with --allow-host"
        elif origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            status, error = 403, "found a page of another site, needed this server's own"
        elif headers.get("content-length", "0").isdigit() and int(headers.get("content-length", "0")) > LARGEST:
            status, error = 413, f"found more than {LARGEST // 2**20} MiB; shorten it"
        if status:
            return await JSONResponse({"error": error}, status)(scope, receive, send)

        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > LARGEST:  # without a length, or beyond it
                raise TooLarge
            return message

        return await self.app(scope, counted, send)

    def answers_to(self, host: str) -> bool:
        """Whether a Host header names this server."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        return name in self.names or ("ip" in self.names and is_address(name))


def is_address(name: str) -> bool:
    """Whether a host is named by its address in numbers."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def too_large(request: Request, error: Exception) -> Any:
    """413, for a body that turned out too large while it came."""
    from starlette.responses import JSONResponse

    return JSONResponse({"error": f"found more than {LARGEST // 2**20} MiB; shorten it"}, 413)
