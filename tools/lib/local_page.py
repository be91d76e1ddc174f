"""A page that is served to the browsers of this machine: how it listens, who is answered, what the page may do.

The arena and the review are two of them. A page is one HTML file; page.css and page.js are put where it names them.
"""

import base64
import hashlib
import json
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from stages.lib.every_stage.errors import UserError
from tools.lib.doorkeeper import Doorkeeper, TooLarge, too_large

FOLDER = Path(__file__).parents[1]
SHARED = {"style": "page.css", "script": "page.js"}


class LocalPage:
    """A page, and the policy that its browser is told to hold it to. `pictures`: it may show the server's own."""

    def __init__(self, name: str, pictures: bool = False) -> None:
        page = FOLDER.joinpath(name).read_text(encoding="utf-8")
        for tag, shared in SHARED.items():
            page = page.replace(f"<{tag}>", f"<{tag}>\n{FOLDER.joinpath(shared).read_text(encoding='utf-8')}", 1)
        self.page, self.policy = page, policy_of(page, pictures)

    async def index(self, request: Request) -> Response:
        """The page itself."""
        return HTMLResponse(self.page, headers={"Content-Security-Policy": self.policy, "Cache-Control": "no-store"})


def policy_of(page: str, pictures: bool) -> str:
    """A policy that lets nothing run but the page's own style and script, and nobody else be asked."""
    allowed = {}
    for tag in SHARED:
        found = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert found
        allowed[tag] = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{allowed['style']}'; script-src 'sha256-{allowed['script']}'; "
    images = "img-src 'self' data:" if pictures else "img-src data:"
    return f"{policy}connect-src 'self'; {images}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


async def body(request: Request) -> Any:
    """A request's JSON. Other content types are refused: a page from elsewhere may send those unasked."""
    if request.headers.get("content-type", "").split(";")[0] != "application/json":
        raise UserError("found no application/json, needed it")
    try:
        content = await request.json()
        json.dumps(content, ensure_ascii=False).encode()  # fails for half of a surrogate pair
    except (ValueError, RecursionError):  # brackets nested 100,000 deep
        raise UserError("found no JSON in UTF-8, needed it") from None
    except ClientDisconnect:
        raise UserError("the request broke off") from None
    return content


def refused(request: Request, error: Exception) -> Response:
    """What can't be done, in words."""
    if isinstance(error, ValidationError):
        (first, *_) = error.errors(include_url=False, include_context=False, include_input=False)
        return JSONResponse({"error": str(first)}, 422)
    return JSONResponse({"error": str(error)}, 400)


def application(page: LocalPage, routes: Sequence[BaseRoute], hosts: list[str], handlers: Any = None) -> Starlette:
    """The app. `hosts` are the names it answers to, as names_of has them; `handlers` are of more exceptions."""
    return Starlette(
        routes=[Route("/", page.index), *routes],
        middleware=[Middleware(Doorkeeper, names=hosts)],
        exception_handlers={UserError: refused, ValidationError: refused, TooLarge: too_large, **(handlers or {})},
    )


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to an address. Raises UserError if it can't be had."""
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise UserError(f"{host}:{port} can't be had: {error.strerror}; choose another with --port or --host") from None


def serve(name: str, app: Starlette, server: socket.socket) -> None:
    """Answer on a socket until Ctrl-C."""
    import uvicorn

    host, port = server.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    print(f"{name}: http://{address}:{port}  (Ctrl-C ends it)", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)).run([server])
