"""What a machine runs out of or forbids: disk, memory, a reader of its output, rights; in one sentence, whatever
raised it.
"""

import errno
import os
import shutil
import tempfile
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
FORBIDDEN = {errno.EACCES, errno.EPERM}
FORBIDDEN_REASON = "os error 13"
"""What tokenizers and safetensors say in errors that are no OSError."""
DISK_REASONS = ("database or disk is full", "disk I/O error", "No space left on device", "os error 28")
"""What sqlite, pip and safetensors say in errors of their own."""
MEMORY_REASONS = (
    "allocate memory",
    "CUDA out of memory",
    "not enough memory",
    "std::bad_alloc",
    "can't start new thread",
)
"""What torch and others say in errors that are of no class of their own on every device."""


def what_ran_out(error: Exception) -> str:
    """What this machine has no more of, or doesn't allow, in words; "" for any other error."""
    if isinstance(error, BrokenPipeError):
        return "standard output was closed by what reads it"
    number = error.errno if isinstance(error, OSError) else None
    said = (str(error).strip().splitlines() or ["Python got none"])[0]
    if number in FULL or any(reason in str(error) for reason in DISK_REASONS):
        name = error.filename if isinstance(error, OSError) else None
        where = os.fsdecode(name) if name else "a file or standard output"
        return f"{where} can't be written: {os.strerror(number) if number else said}. Free space: {free_space()}"
    if number in FORBIDDEN or FORBIDDEN_REASON in str(error):
        name = error.filename if isinstance(error, OSError) else None
        where = os.fsdecode(name) if name else "a file"
        return f"{where}: {os.strerror(number or errno.EACCES)}. Give this user the right to read and write it"
    no_memory = number == errno.ENOMEM or isinstance(error, MemoryError)
    if no_memory or any(reason in str(error) for reason in MEMORY_REASONS):
        return f"out of memory: {said}. Close other programs, or lower batch or model size"
    return ""


def free_space() -> str:
    """How much is free where programs of this kind write."""
    places = {
        "here": ".",
        "TMPDIR": tempfile.gettempdir(),
        "HF_HOME": os.environ.get("HF_HOME") or "~/.cache/huggingface",
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or "~/.cache",
    }
    found = {name: Path(path).expanduser() for name, path in places.items()}
    return ", ".join(
        f"{name} ({path}) {shutil.disk_usage(path).free // 2**20} MiB" for name, path in found.items() if path.exists()
    )
