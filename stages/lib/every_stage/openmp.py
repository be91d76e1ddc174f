"""How long OpenMP's threads spin while they wait for one another, by what else computes on this machine.

A thread that waits spins for milliseconds and then sleeps. Spinning is quicker where every thread has a core of its
own; where another program holds one, those that spin take the core that the last thread waits for, and a training step
took 14 times as long. That was measured with GNU's OpenMP, which torch's Linux wheels hold (bench/busy.py); LLVM's, of
macOS' wheels, has other settings and is left as it is.
"""

import os
import time
from pathlib import Path

QUIET, BUSY = "30000", "1000"
"""GOMP_SPINCOUNT: no slower than GNU's own 300,000 on free cores; and what loses least on cores that are shared."""

ASKED_BY_USER = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
LOOKS = 4
SECONDS_BETWEEN = 0.01


def spin_count() -> dict[str, str]:
    """The environment variable that torch is told before it is imported; none where the user's own says it."""
    if any(name in os.environ for name in ASKED_BY_USER):
        return {}
    return {"GOMP_SPINCOUNT": BUSY if others_compute() else QUIET}


def others_compute() -> bool:
    """Whether another thread on this machine wanted a core at each of a few looks; False where Linux doesn't say."""
    for look in range(LOOKS):
        if look:
            time.sleep(SECONDS_BETWEEN)
        if runnable() <= 1:  # this one
            return False
    return True


def runnable() -> int:
    """How many threads of this machine run or wait for a core, from /proc/loadavg; 0 where there is none."""
    try:
        return int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return 0
