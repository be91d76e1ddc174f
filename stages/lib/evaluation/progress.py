"""How far a loop over many rows is, on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

EVERY = 10.0
"""Seconds between two lines at least."""

Advance = Callable[[int], None]
"""Told how many more rows are done."""


def silent(count: int) -> None:
    """Tells nobody."""


def progress(name: str, rows: str, total: int, clock: Callable[[], float] = time.monotonic) -> Advance:
    """A function to be told of each batch of `rows` that is done: it prints how many are, and the time left.

    Nothing where the loop takes less than ten seconds, and no line for its end.
    """
    began = said = clock()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        now = clock()
        if done < total and now - said >= EVERY:
            said = now
            left = timedelta(seconds=round((now - began) / done * (total - done)))
            print(f"{name}: {done} of {total} {rows}, about {left} left", flush=True)

    return advance
