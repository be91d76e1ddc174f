"""Put the repository in order before DVC runs, where DVC itself can't.

Writes  .dvc/config.local: DVC's own cache in a folder that nobody else may read or write, ~/.cache/graft/dvc;
        and a name in ASCII for the repository's cache, where its path has others;
        dvc.lock, if DVC was killed while it rewrote it: the copy that the last stage kept, or the last commit's
Run     python -m tools.repair        `make setup` and `make repro` do
"""

from pathlib import Path

import yaml

from stages.lib.every_stage.entry import DVC_LOCK, DVC_LOCK_KEPT, exit_on_user_error
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.publish import written_whole
from tools.lib.dvc_caches import keep_site_cache_private, name_cache_in_ascii
from tools.lib.points import git


def repair() -> None:
    """Do both. Raises UserError where there is no repository of DVC."""
    if not Path(".dvc").is_dir():
        raise UserError("found no .dvc here, needed the root of the repository")
    keep_site_cache_private()
    name_cache_in_ascii()
    restore_lock()


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
