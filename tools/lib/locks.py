"""Locks that end with the processes that hold them, whatever ends those."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def try_lock(path: Path) -> int | None:
    """Lock the file `path` (made if missing) and return its descriptor, or None if another process holds it."""
    return lock_by(path, fcntl.LOCK_EX | fcntl.LOCK_NB)


def wait_lock(path: Path) -> int:
    """Lock the file `path` (made if missing), waiting for whoever holds it, and return its descriptor."""
    descriptor = lock_by(path, fcntl.LOCK_EX)
    assert descriptor is not None
    return descriptor


def lock_by(path: Path, operation: int) -> int | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def locked(descriptor: int) -> Iterator[int]:
    """Hold a lock for a block. A child that was given the descriptor (pass_fds) holds it on until it ends too."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)
