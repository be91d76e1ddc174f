"""A local page in a browser as people use it: the tool that serves it, and windows whose complaints are noted."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, such as Debian's package of that name")


@contextmanager
def serving(tool: str, place: Path, *options: str) -> Iterator[str]:
    """`python -m tools.<tool>` in a place of its own; its address."""
    command = [sys.executable, "-u", "-m", f"tools.{tool}", "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        for line in server.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        assert found, "the server ended"
        yield found[0]
    finally:
        server.terminate()
        server.wait()


@contextmanager
def launched() -> Iterator[Any]:
    """A browser that finds no host but this one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        options = [
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


class Visitor:
    """A browser window of its own, whose complaints and requests are noted. `ready` is there once the page is."""

    def __init__(self, browser: Any, address: str, ready: str, **options: Any) -> None:
        self.context = browser.new_context(**{"locale": "ko-KR"} | options)
        self.context.set_default_timeout(300_000)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector(ready, state="attached")

    def wait(self, selector: str) -> None:
        """Until there is such an element to see. Nothing is run in the page for it: its policy forbids that too."""
        self.page.wait_for_selector(selector)


@contextmanager
def visiting(open_window: Callable[..., Visitor], address: str) -> Iterator[Callable[..., Any]]:
    """Opens windows; in the end nobody may have complained or have asked anyone but the server."""
    visitors: list[Visitor] = []

    def opened(**options: Any) -> Visitor:
        visitors.append(open_window(**options))
        return visitors[-1]

    yield opened
    for visitor in visitors:
        visitor.context.close()
        assert visitor.complaints == []
        assert {url for url in visitor.requests if not url.startswith((address, "data:"))} == set()
