"""Where DVC keeps things is put into .dvc/config.local, which a host and its container share."""

import os
from pathlib import Path

import pytest
from dvc.config import Config

from tools.lib.dvc_caches import keep_site_cache_private, name_cache_in_ascii


def local() -> dict[str, dict[str, str]]:
    settings: dict[str, dict[str, str]] = Config(".dvc").load_one("local")
    return settings


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".dvc").mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)


def test_a_site_cache_that_the_environment_names_leaves_the_settings_alone(tmp_path, monkeypatch):
    enter(tmp_path / "repository", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "host"))
    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)
    keep_site_cache_private()
    before = Path(".dvc/config.local").read_bytes()
    assert local()["core"]["site_cache_dir"] == str(tmp_path / "host/graft/dvc")
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(shared))
    keep_site_cache_private()
    assert shared.stat().st_mode & 0o777 == 0o755
    in_the_container = tmp_path / "container/graft/dvc"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "container"))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(in_the_container))
    keep_site_cache_private()
    assert in_the_container.stat().st_mode & 0o777 == 0o700
    assert Path(".dvc/config.local").read_bytes() == before


def test_a_hosts_link_to_its_cache_is_not_kept_in_a_folder_that_needs_none(tmp_path, monkeypatch):
    host, container = tmp_path / "문서", tmp_path / "workspace"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "host"))
    enter(host, monkeypatch)
    name_cache_in_ascii()
    link = Path(local()["cache"]["dir"])
    assert link.parent == tmp_path / "host/graft/dvc/caches" and link.resolve() == host / ".dvc/cache"

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "volume"))
    os.rename(host, container)  # as the container sees it
    enter(container, monkeypatch)
    name_cache_in_ascii()
    assert "dir" not in local().get("cache", {})
    os.rename(container, host)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "host"))
    enter(host, monkeypatch)
    name_cache_in_ascii()
    assert Path(local()["cache"]["dir"]) == link


def test_a_cache_that_the_user_named_stays(tmp_path, monkeypatch):
    enter(tmp_path, monkeypatch)
    Path(".dvc/config.local").write_text("[cache]\n    dir = /data/dvc-cache\n")
    name_cache_in_ascii()
    assert local()["cache"]["dir"] == "/data/dvc-cache"
