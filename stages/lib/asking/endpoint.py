"""One request to a language model's endpoint: bounded in time and size, with a key that goes nowhere else.

Every failure is a UserError that says what was found; none holds the key.
"""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.foreign_text import on_one_line
from stages.lib.passing_failures import PASSING, retry_after

if TYPE_CHECKING:
    from httpx2 import Response

DEADLINE = 600.0
"""Seconds for one answer in all: connecting, waiting, reading, and every further attempt."""
PROGRESS = 30.0
"""Seconds after which a line says that it is still waited for."""
LARGEST = 8 * 2**20
"""Bytes of an answer; a long one has some thousand."""
ATTEMPTS = 5
PAUSE = 1.0
"""Seconds before the second attempt where the endpoint names none; twice as many before each further one."""


class Passing(Exception):
    """A failure that may pass by itself: what was found, and how many seconds the endpoint asks to wait."""

    def __init__(self, found: str, wait: float | None = None) -> None:
        super().__init__(found)
        self.wait = wait


def api_key() -> str:
    """OPENAI_API_KEY, "" if there is none. Raises UserError, without its value, for one that no header can hold."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    wrong = [place for place, character in enumerate(key, start=1) if not "!" <= character <= "~"]
    if wrong:
        raise UserError(
            f"OPENAI_API_KEY: found a space, a control or a character beyond ASCII, the first at place {wrong[0]}; "
            "needed a key as it was given out. Set it again (its value is not shown)"
        )
    return key


def post(address: str, body: bytes, setting: str, key: str) -> bytes:
    """What `address` answers to `body`, JSON; `setting` is where it was set.

    Raises UserError for an address that can't be reached, a status of failure, a redirect, which would carry the key
    on, an answer that is too slow or too large.
    """
    if not address.lower().startswith(("http://", "https://")):
        raise UserError(f"{setting}.endpoint: found {address}, needed an http(s) address")
    return asyncio.run(post_in_time(address, body, setting, key))


async def post_in_time(address: str, body: bytes, setting: str, key: str) -> bytes:
    began = time.monotonic()
    try:
        async with asyncio.timeout(DEADLINE), progress(shown_address(address)):
            return await post_until_answered(address, body, setting, key, began)
    except TimeoutError:
        raise UserError(
            f"{shown_address(address)}: no whole answer in {DEADLINE:.0f} s. Check {setting}.endpoint, or choose a "
            "faster model; what was answered is cached"
        ) from None


@asynccontextmanager
async def progress(address: str) -> AsyncIterator[None]:
    """Say now and then that an answer is still waited for."""

    async def tell() -> None:
        waited = 0.0
        while True:
            await asyncio.sleep(PROGRESS)
            waited += PROGRESS
            print(f"{address}: waiting for an answer for {waited:.0f} s, at most {DEADLINE:.0f}", flush=True)

    task = asyncio.create_task(tell())
    try:
        yield
    finally:
        task.cancel()


async def post_until_answered(address: str, body: bytes, setting: str, key: str, began: float) -> bytes:
    """The body of the first answer of status 200, trying again while the failures may pass."""
    attempt = 1
    while True:
        try:
            return await post_once(address, body, setting, key)
        except Passing as failure:
            left = DEADLINE - (time.monotonic() - began)
            wait = PAUSE * 2 ** (attempt - 1) if failure.wait is None else failure.wait
            if attempt == ATTEMPTS or wait > left:
                asked = f", and asks to wait for {wait:.0f} s" if failure.wait is not None else ""
                raise UserError(
                    f"{shown_address(address)}: {failure}{asked}. Check {setting}.endpoint, or try later; what was "
                    "answered is cached"
                ) from None
            attempt += 1
            await asyncio.sleep(wait)


async def post_once(address: str, body: bytes, setting: str, key: str) -> bytes:
    """One attempt. Raises Passing for what may pass, UserError for what won't."""
    from httpx2 import AsyncClient, HTTPError, InvalidURL, Timeout

    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        async with (
            AsyncClient(follow_redirects=False, timeout=Timeout(None)) as client,
            client.stream("POST", address, content=body, headers=headers) as response,
        ):
            content = await limited(response)
    except InvalidURL as error:
        raise UserError(f"{setting}.endpoint: found {shown_address(address)}: {error}") from None
    except (HTTPError, OSError) as error:
        said = on_one_line(str(error) or type(error).__name__)
        raise Passing(f"can't be reached, or its answer breaks off: {said}") from None
    refuse_status(address, response, content, setting, key)
    return content


async def limited(response: "Response") -> bytes:
    """The body of a response. Raises UserError where it is too large."""
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > LARGEST:
            raise UserError(
                f"{shown_address(str(response.url))}: answered more than {LARGEST // 2**20} MiB; needed a completion"
            )
    return bytes(content)


def refuse_status(address: str, response: "Response", content: bytes, setting: str, key: str) -> None:
    """Raise Passing or UserError for any status but 200, and for a web page."""
    status, where = response.status_code, shown_address(address)
    if 300 <= status < 400:
        target = shown_address(response.headers.get("location", "nowhere"))
        raise UserError(
            f"{where}: answered {status}, go to {target}: a redirect would carry the prompt and OPENAI_API_KEY there. "
            f"If you trust it, set {setting}.endpoint to it"
        )
    said = excerpt(content, key)
    if status in PASSING:
        raise Passing(f"answered {status}: {said}", retry_after(response.headers.get("retry-after", "")))
    if status != 200:
        raise UserError(
            f"{where}: answered {status}: {said}. Check {setting} and OPENAI_API_KEY; what was answered is cached"
        )
    if content.lstrip()[:1] == b"<":
        raise UserError(
            f"{where}: found {said}, needed JSON. Is it a sign-in page, or a proxy's? Check {setting}.endpoint"
        )


def excerpt(content: bytes, key: str) -> str:
    """The beginning of an answer, on one line and without the key; of a web page, its title."""
    text = content[:4000].decode(errors="replace")
    if text.lstrip()[:1] == "<":
        title = re.search(r"<title[^>]*>([^<]*)", text, re.IGNORECASE)
        text = f"a web page (HTML) {' '.join(title[1].split())!r}" if title else "a web page (HTML)"
    return on_one_line((text.replace(key, "…") if key else text)[:300].strip())


def shown_address(address: str) -> str:
    """An address without the name and password that it may hold."""
    return on_one_line(re.sub(r"(?<=//)[^/?#]*@", "", address))
