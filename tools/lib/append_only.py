"""Files of lines that are appended whole or not at all, whoever else appends at the same time: votes, decisions."""

import fcntl
import json
import os
from pathlib import Path

from pydantic import BaseModel

from stages.lib.every_stage.errors import UserError


def append(record: BaseModel, path: Path, name: str) -> None:
    """Append one record as a line of JSON, on disk when this returns.

    A line that was truncated, as by a full disk or a crash, is ended first: it must not swallow this one. Raises
    UserError, which calls the record `name`, if the file can't be written; then it is as it was.
    """
    line = record.model_dump_json().encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            try:
                if os.write(descriptor, line) < len(line):
                    raise OSError("no space left for a whole line")
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise cannot(path, f"the {name} can't be written", error) from error


def take_back(identity: str, path: Path, name: str) -> bool:
    """Remove the line whose `id` is `identity`; whether there was one. Lines after it stay, whoever appended them.

    Raises UserError, which calls the record `name`, if the file can't be written.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise cannot(path, f"the {name} can't be taken back", error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        start = 0
        for line in content.splitlines(keepends=True):
            if identified(line) == identity:
                rest = content[start + len(line) :]
                os.pwrite(descriptor, rest, start)  # a crash here leaves some of them twice, and none lost
                os.ftruncate(descriptor, start + len(rest))
                os.fsync(descriptor)
                return True
            start += len(line)
        return False
    except OSError as error:
        raise cannot(path, f"the {name} can't be taken back", error) from error
    finally:
        os.close(descriptor)


def identified(line: bytes) -> str | None:
    """The `id` of a line, where it is a whole one."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found.get("id") if isinstance(found, dict) else None


def cannot(path: Path, what: str, error: OSError) -> UserError:
    return UserError(f"{path}: {what}: {error.strerror or error}. Free space or fix its permissions, then try again")
