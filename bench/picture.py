"""The picture of the README: one question in the arena, answered by the base model and by the tuned one.

Reads   models/base, models/dpo-merged
Writes  docs/before-and-after.png; its vote is taken back
Run     python -m bench.picture [--question "…"]        needs chromium and a font with Hangul
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from stages.lib.every_stage.entry import exit_on_user_error
from stages.lib.every_stage.errors import UserError

VOTES = Path("data/raw/votes/votes.jsonl")
OUT = Path("docs/before-and-after.png")
QUESTION = "달여울시민청의 주소는 어디인가요?"
WIDTH, HEIGHT = 720, 420


def take(question: str) -> None:
    """Ask in the arena, vote, photograph the page."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise UserError("found no chromium, needed one to photograph the page: apt install chromium")
    command = [sys.executable, "-u", "-m", "tools.arena", "base", "dpo", "--port", "0", "--temperature", "0.01",
               "--max-new-tokens", "76"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as driver:
        try:
            assert server.stdout
            address = next(found[0] for line in server.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            window = {"width": WIDTH, "height": HEIGHT}
            page = browser.new_page(viewport=window, device_scale_factor=1.5, locale="ko-KR")
            page.set_default_timeout(300_000)
            page.goto(f"{address}/#arena")
            while "base" not in page.locator("#first h2").inner_text():  # sides are drawn
                page.fill("#question", question)
                page.press("#question", "Enter")
                page.wait_for_selector("#votes:not([hidden])")
                page.click("[data-verdict=tie]")
                page.wait_for_selector("article h2 b")
                page.click("#undo")
                page.wait_for_selector("#after", state="hidden")
            page.locator("#told, #arena > .bar, #arena details").evaluate_all("all => all.forEach(one => one.remove())")
            page.locator("#question").blur()
            page.locator("#arena").evaluate(
                "element => { element.style.flex = 'none'; element.style.padding = '.6rem' }"
            )
            page.locator("#arena").screenshot(path=OUT)
            browser.close()
        finally:
            server.terminate()
    if VOTES.exists() and not VOTES.stat().st_size:
        VOTES.unlink()  # or DVC would find that people voted
    print(f"{OUT}: {OUT.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--question", default=QUESTION)
    given = parser.parse_args()
    exit_on_user_error("picture", lambda: take(given.question))
