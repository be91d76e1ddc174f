"""Programs of llama.cpp's that run beside this process: they may abort, and take their memory with them."""

import os
import sys
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).parents[3]
LAST_LINES = 5


def command_of(module: str, *words: str) -> list[str]:
    """What runs a module of ours in a process of its own."""
    return [sys.executable, "-m", module, *words]


def environment() -> dict[str, str]:
    """What such a process is told: where our modules are, and to ask nothing from the Hub."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}


def end_of(log: IO[bytes]) -> str:
    """The last lines of a log, as one."""
    log.seek(0)
    lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return " / ".join(lines[-LAST_LINES:]) or "it said nothing"
