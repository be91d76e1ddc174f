"""Outputs appear whole or not at all: written beside their place, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.lib.errors import UserError


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """Give a path to write a file or directory at; rename it to `target` if the block ends well.

    The temporary path is a sibling of `target`, so that the rename stays within one file system. What stood at
    `target` is replaced. A block that raises leaves `target` untouched and the sibling removed. Raises UserError
    for a disk that is full or a place that can't be written.
    """
    sibling = target.with_name(f".{target.name}.writing")
    try:
        with explain_disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            remove(sibling)
            yield sibling
            remove(target)
            os.replace(sibling, target)
    finally:
        remove(sibling)


@contextmanager
def explain_disk_errors(target: Path) -> Iterator[None]:
    """Turn what writing near `target` raises for a full disk or a forbidden place into a UserError that says so."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # such as a parser's own subclass of OSError
            raise
        raise UserError(unwritable(target, error.strerror)) from error
    except Exception as error:
        # safetensors raises a class of its own, torch.save RuntimeError and tokenizers a bare Exception; the reason is
        # in the text alone. Whatever else it is goes on as it came.
        if not any(reason in str(error) for reason in DISK_REASONS):
            raise
        raise UserError(unwritable(target, str(error))) from error


DISK_REASONS = ("os error", "No space left", "PytorchStreamWriter", "file write failed")


def unwritable(target: Path, reason: str | None) -> str:
    return (
        f"{target}: can't be written: {reason}. Free space or mend its permissions, then run again; "
        "nothing was published"
    )


def remove(path: Path) -> None:
    """Remove a file or a directory tree, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()
