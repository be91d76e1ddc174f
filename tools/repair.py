"""Put the repository in order before DVC runs, where DVC itself can't.

Writes  .dvc/config.local: DVC's own cache in a folder that nobody else may read or write, ~/.cache/graft/dvc;
        dvc.lock, if DVC was killed while it rewrote it: the copy that the last stage kept, or the last commit's
Run     python -m tools.repair        `make setup` and `make repro` do
"""

import os
from pathlib import Path

import yaml

from stages.lib.entry import DVC_LOCK, DVC_LOCK_KEPT, exit_on_user_error
from stages.lib.errors import UserError
from stages.lib.publish import make_private_folder, written_whole
from tools.lib.points import git


def repair() -> None:
    """Do both. Raises UserError where there is no repository of DVC."""
    if not Path(".dvc").is_dir():
        raise UserError("found no .dvc here, needed the root of the repository")
    keep_site_cache_private()
    restore_lock()


def keep_site_cache_private() -> None:
    """Let DVC keep its bookkeeping here: its default, /var/tmp/dvc, may be written by every user of the machine, and
    holds pickles, which run code when they are read.
    """
    from dvc.config import Config

    site = site_cache()
    make_private_folder(site)
    try:
        with Config(".dvc").edit("local") as settings:
            settings["core"] = {**settings.get("core", {}), "site_cache_dir": str(site)}
    except UnicodeEncodeError:
        raise UserError(
            f"{site}: DVC writes its configuration in ASCII. Set XDG_CACHE_HOME to a folder of such a name, or "
            f"DVC_SITE_CACHE_DIR={site} wherever DVC is run"
        ) from None


def site_cache() -> Path:
    """Where DVC's own cache lies: not below the repository, whose folders may be called what DVC can't write down."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "graft/dvc"


def restore_lock() -> None:
    """Put dvc.lock back if only a part of it is there."""
    if not DVC_LOCK.is_file() or is_readable(DVC_LOCK.read_bytes()):
        return
    if DVC_LOCK_KEPT.is_file() and is_readable(DVC_LOCK_KEPT.read_bytes()):
        content, source = DVC_LOCK_KEPT.read_bytes(), "the copy that the last stage kept"
    else:
        try:
            content, source = git("show", f"HEAD:{DVC_LOCK}").encode(), "that of the last commit"
        except UserError:
            DVC_LOCK.unlink()
            print(f"{DVC_LOCK}: found a part of it, and nobody kept a whole one; removed, so all stages run again")
            return
    with written_whole(DVC_LOCK) as path:
        path.write_bytes(content)
    print(f"{DVC_LOCK}: found a part of it: DVC was ended while it wrote; put back {source}")


def is_readable(content: bytes) -> bool:
    """Whether DVC can read a dvc.lock of this content."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.load(content, yaml.CSafeLoader))
    except (yaml.YAMLError, Invalid):
        return False
    return True


if __name__ == "__main__":
    exit_on_user_error("repair", repair)
