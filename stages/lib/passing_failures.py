"""Statuses of HTTP that may pass by themselves, and how long a server asks to wait."""

import time
from contextlib import suppress
from email.utils import parsedate_to_datetime

PASSING = {408, 425, 429, 500, 502, 503, 504, 529}


def retry_after(header: str) -> float | None:
    """The seconds of a Retry-After header, a number or a date; None without a valid one."""
    with suppress(ValueError, OverflowError):
        if header.strip().isdigit():
            return float(header)
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    return None
