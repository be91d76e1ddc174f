"""What DVC alone leaves stuck or open is put right before it runs."""

import random
from pathlib import Path

import pytest

from tests.short_chain import ShortChain

pytestmark = pytest.mark.chain


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShortChain:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    chain = ShortChain(tmp_path / "chain")
    chain.run("dvc", "repro")
    chain.run("dvc", "repro", "--force", "--single-item", "config")  # the first stage of all finds no lock to keep
    chain.commit("ran")
    return chain


def test_a_lock_truncated_anywhere_stops_dvc_once(chain):
    """Killed while it writes dvc.lock, in place: it may end anywhere."""
    lock = chain.directory / "dvc.lock"
    whole = lock.read_bytes()
    chance = random.Random(5)
    assert "dvc.lock" in chain.run("sh", "-c", ": > dvc.lock; dvc repro", fails=True)
    for length in [0, *(chance.randrange(len(whole)) for _ in range(5))]:
        lock.write_bytes(whole[:length])
        said = chain.run("python", "-m", "tools.repair")
        if said:
            assert "put back the copy that the last stage kept" in said
        assert chain.run("dvc", "status", "config")  # DVC reads it
    assert "up to date" in chain.run("dvc", "repro") + chain.run("dvc", "status")


def test_without_the_copy_the_last_commits_lock_comes_back(chain):
    (chain.directory / ".dvc/tmp/dvc.lock").unlink()
    (chain.directory / "dvc.lock").write_bytes(b"")
    assert "put back that of the last commit" in chain.run("python", "-m", "tools.repair")
    assert chain.run("git", "status", "--porcelain") == ""


def test_without_any_the_stages_run_again(chain):
    (chain.directory / ".dvc/tmp/dvc.lock").unlink()
    chain.run("git", "rm", "--quiet", "--cached", "dvc.lock")
    chain.run("git", "commit", "--quiet", "--message", "never committed")
    (chain.directory / "dvc.lock").write_bytes(b"sche")
    assert "nobody kept a whole one" in chain.run("python", "-m", "tools.repair")
    chain.run("dvc", "repro")


def test_dvcs_own_cache_is_private_from_the_set_up_on(tmp_path, monkeypatch):
    chain = ShortChain(tmp_path / "chain")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)  # the container's
    chain.run("python", "-m", "tools.repair")
    chain.run("dvc", "repro")
    site = tmp_path / "cache/graft/dvc"
    assert site.stat().st_mode & 0o777 == 0o700
    assert list(site.glob("repo/*"))
    assert str(site) in chain.run("dvc", "doctor")
    assert chain.run("git", "status", "--porcelain", ".dvc") == ""


def test_a_cache_home_that_is_no_folder_is_one_sentence(tmp_path, monkeypatch):
    from stages.lib.every_stage.errors import UserError
    from tools.repair import repair

    (tmp_path / ".dvc").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)  # the container's
    with pytest.raises(UserError, match="file/graft/dvc: can't be made: Not a directory. Set XDG_CACHE_HOME"):
        repair()


def test_keys_of_a_remote_keep_their_mode_in_a_points_clone(tmp_path, monkeypatch):
    from tools.lib.points import clone

    chain = ShortChain(tmp_path / "chain")
    local = chain.directory / ".dvc/config.local"
    local.write_text("['remote \"r\"']\n    url = s3://bucket/r\n    secret_access_key = secret\n")
    local.chmod(0o600)
    monkeypatch.chdir(chain.directory)
    with clone("point") as directory:
        copied = directory / ".dvc/config.local"
        assert "secret" in copied.read_text() and copied.stat().st_mode & 0o777 == 0o600


def test_the_set_up_does_it_before_dvc_runs():
    from conftest import ROOT

    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    repro = lines.index("repro: $(READY)  ## run what is out of date of the chain and show the scores")
    assert lines[repro + 1] == "\tpython -m tools.repair"
    assert lines.index("\tpython -m tools.repair") < repro  # and at the end of the set-up


def test_outside_of_a_repository_it_says_so(tmp_path, monkeypatch):
    from stages.lib.every_stage.errors import UserError
    from tools.repair import repair

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="found no .dvc here"):
        repair()
