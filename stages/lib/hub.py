"""What is asked of the Hub by its own client: tried again where a failure may pass, and named for what it was."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from stages.lib.every_stage.shortages import what_ran_out
from stages.lib.passing_failures import PASSING, retry_after

T = TypeVar("T")

ATTEMPTS = 4
PAUSE = 1.0
"""Seconds before the second attempt where the Hub names none; twice as many before each further one."""
LONGEST = 120.0
"""Seconds that it may ask to wait."""


def from_hub(what: str, get: Callable[[], T]) -> T:
    """What `get`, a call of the Hub's client, returns; it is called again while the Hub is busy, and that is said.

    Raises what the last call raised, and UserError for an answer that comes too slowly. `what` names what is asked for.
    """
    from httpx2 import HTTPError

    from stages.lib.low_speed import give_up_slow_answers

    give_up_slow_answers()
    for attempt in range(1, ATTEMPTS):
        try:
            return get()
        except (HTTPError, OSError) as error:
            status, asked = answer_in(error)
            wait = PAUSE * 2 ** (attempt - 1) if asked is None else asked
            if status not in PASSING or wait > LONGEST:
                raise
            print(f"{what}: the Hub answered {status}; again in {wait:.0f} s", flush=True)
            time.sleep(wait)
    return get()


def answer_in(error: BaseException) -> tuple[int, float | None]:
    """The status that the Hub answered with, and the seconds it asks to wait; 0 where it didn't answer."""
    from huggingface_hub.errors import HfHubHTTPError

    for cause in causes(error):
        if isinstance(cause, HfHubHTTPError) and cause.response is not None:
            return cause.response.status_code, retry_after(cause.response.headers.get("retry-after", ""))
    return 0, None


def reason_of(error: BaseException) -> str:
    """Why the Hub's client failed, where it wasn't that the Hub can't be reached; "" if it was, or nobody knows."""
    from httpx2 import ReadTimeout

    for cause in causes(error):
        if isinstance(cause, Exception) and (shortage := what_ran_out(cause)):
            return shortage
        if isinstance(cause, ReadTimeout):
            return "the Hub doesn't answer. Run again later: files that came whole are kept"
        text = str(cause)
        if "Consistency check failed" in text or "file should be of size" in text:
            return f"the download is short or damaged: {text.splitlines()[0]} Run again: it is fetched anew"
        if "JSON" in type(cause).__name__ or "Expecting value" in text or "X-Repo-Commit" in text:
            return "the answer is not the Hub's: a sign-in page or a proxy stands in between. Check HF_ENDPOINT"
    status, asked = answer_in(error)
    if not status:
        return ""
    wait = f", and asks to wait for {asked:.0f} s" if asked is not None else ""
    return f"the Hub answered {status}{wait}. Run again later: files that came whole are kept"


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
