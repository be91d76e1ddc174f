"""Where DVC keeps its own bookkeeping, and by what name it knows this repository's cache."""

import hashlib
import os
from pathlib import Path

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.publish import make_private_folder, written_whole


def keep_site_cache_private() -> None:
    """Let DVC keep its bookkeeping here: its default, /var/tmp/dvc, may be written by every user of the machine, and
    holds pickles, which run code when they are read. DVC_SITE_CACHE_DIR names another place, which DVC heeds first, as
    in the container: the repository's settings are then the host's alone.
    """
    from dvc.config import Config

    site = site_cache()
    named = os.environ.get("DVC_SITE_CACHE_DIR")
    if named and Path(named) != site:
        return
    try:
        make_private_folder(site)
    except OSError as error:
        raise UserError(
            f"{site}: can't be made: {error.strerror}. Set XDG_CACHE_HOME to a folder that you may write to"
        ) from None
    if named:
        return
    try:
        with Config(".dvc").edit("local") as settings:
            settings["core"] = {**settings.get("core", {}), "site_cache_dir": str(site)}
    except UnicodeEncodeError:
        raise UserError(
            f"{site}: DVC writes its configuration in ASCII. Set XDG_CACHE_HOME to a folder of such a name, or "
            f"DVC_SITE_CACHE_DIR={site} wherever DVC is run"
        ) from None


def name_cache_in_ascii() -> None:
    """Name this repository's cache by a link in ASCII, where its own path isn't, unless the user named another one.

    DVC's queue and its experiments in temporary folders write that path into a configuration, in ASCII (configobj's).
    A link made elsewhere, by a host for what is its container's repository too, is there and not here.
    """
    from dvc.config import Config

    cache = Path(".dvc/cache").absolute()
    links = site_cache() / "caches"
    link = links / hashlib.sha256(os.fsencode(cache)).hexdigest()[:16]
    config = Config(".dvc")
    named = config.load_one("local").get("cache", {}).get("dir")
    ours = bool(named) and Path(named).parts[-4:-1] == links.parts[-3:]
    if named and not ours:
        return
    if str(cache).isascii():
        if ours:
            with config.edit("local") as settings:
                del settings["cache"]["dir"]
        return
    with config.edit("local") as settings:
        settings["cache"] = {**settings.get("cache", {}), "dir": str(link)}
    cache.mkdir(parents=True, exist_ok=True)
    make_private_folder(links)
    with written_whole(link) as path:
        path.symlink_to(cache)


def site_cache() -> Path:
    """Where DVC's own cache is: not below the repository, whose folders may be called what DVC can't write down."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "graft/dvc"
