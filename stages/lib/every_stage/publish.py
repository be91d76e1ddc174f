"""Outputs appear whole or not at all: written beside their place, then renamed, while what they are made of holds."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.started import process, refuse_changes

PRIVATE = 0o700
"""Mode of folders outside the repository: what is there was made of data that may be private."""

done: list[Path] = []
"""What this process has published so far."""


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """Give a path to write a file or directory at; rename it to `target` if the block ends well.

    A block that raises leaves `target` untouched. Raises UserError for a disk that is full, a place that can't be
    written, and where the stage's code, inputs or values are no longer those that it was started with.
    """
    with written_whole(target) as sibling:
        yield sibling
        refuse_changes()
    done.append(target)


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Give a path to write a file or directory at; rename it to `target` if the block ends well.

    The temporary path is a sibling of `target`, so that the rename stays within one file system, and this process's
    own. What stood at `target` is replaced; what killed processes left beside it is removed. Raises UserError for a
    disk that is full or a place that can't be written.
    """
    sibling, aside = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("writing", "old"))
    try:
        with explain_disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            clear_up(target)
            remove(sibling)
            yield sibling
            put(sibling, target, aside)
    finally:
        remove(sibling)
        remove(aside)


def put(written: Path, target: Path, aside: Path) -> None:
    """Rename `written` to `target`. A directory that stands there goes `aside` first.

    Another process may put the same there between any two steps: what comes last stays.
    """
    while True:
        try:
            os.replace(written, target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        remove(aside)
        with suppress(FileNotFoundError):
            os.replace(target, aside)


def clear_up(target: Path) -> None:
    """Remove what killed processes left beside `target`; put back what one of them had moved aside."""
    left = re.compile(rf"\.{re.escape(target.name)}\.(\d+)\.(writing|old)")
    for name in os.listdir(target.parent):
        if (found := left.fullmatch(name)) and not process(found[1])[0]:
            if found[2] == "old" and not target.exists():
                os.replace(target.parent / name, target)
            else:
                remove(target.parent / name)


def what_was_published() -> str:
    """What this process has published, for the end of a message."""
    return f"only {', '.join(map(str, done))} was published" if done else "nothing was published"


@contextmanager
def explain_disk_errors(target: Path) -> Iterator[None]:
    """Turn what writing near `target` raises for a full disk or a forbidden place into a UserError that says so."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:  # a closed pipe, a parser's own subclass of OSError
            raise
        place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else target
        if error.errno == errno.ENOENT:
            raise UserError(f"{place}: {error.strerror}: it was removed. Run again; {what_was_published()}") from error
        raise UserError(unwritable(place, error.strerror)) from error
    except Exception as error:
        # safetensors raises a class of its own, torch.save RuntimeError and tokenizers a bare Exception; the reason is
        # in the text alone. Whatever else it is goes on as it came.
        if not any(reason in str(error) for reason in DISK_REASONS):
            raise
        raise UserError(unwritable(target, str(error))) from error


DISK_REASONS = ("os error", "No space left", "PytorchStreamWriter", "file write failed")
UNWRITABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR,
    errno.EEXIST, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTEMPTY, errno.ENOENT,
}  # fmt: skip


def unwritable(target: Path, reason: str | None) -> str:
    return (
        f"{target}: can't be written: {reason}. Free space or fix its permissions, then run again; "
        f"{what_was_published()}"
    )


def make_private_folder(path: Path) -> None:
    """Make a folder that nobody else may read, and those above it where they are missing."""
    path.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:  # it was made before, or by another program
        path.chmod(PRIVATE)


def remove(path: Path) -> None:
    """Remove a file or a directory tree, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()
