"""Outputs appear whole or not at all."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from stages.lib.every_stage import publish
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.publish import published


def test_a_block_that_fails_leaves_what_stood_there(tmp_path):
    target = tmp_path / "out"
    target.write_text("old", encoding="utf-8")
    with pytest.raises(RuntimeError), published(target) as path:
        path.write_text("half", encoding="utf-8")
        raise RuntimeError
    assert target.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_directory_replaces_a_directory(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "stale").touch()
    with published(target) as path:
        path.mkdir()
        (path / "new").touch()
    assert os.listdir(target) == ["new"]


def test_a_place_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written"), published(tmp_path / "file" / "out"):
        pass


def test_two_processes_that_publish_one_thing_leave_a_whole_one(tmp_path):
    """Neither writes into, or removes, what the other is writing."""
    target = tmp_path / "out"
    context = multiprocessing.get_context("fork")
    together = context.Barrier(2)

    def publish(name: str) -> None:
        with published(target) as path:
            path.mkdir()
            together.wait()
            for part in ("a", "b"):
                (path / part).write_text(name)
            together.wait()

    writers = [context.Process(target=publish, args=(name,)) for name in ("first", "second")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert {(target / part).read_text() for part in ("a", "b")} in ({"first"}, {"second"})
    assert os.listdir(tmp_path) == ["out"]


KILLED = """if True:
    import os, signal, sys
    from pathlib import Path
    from stages.lib.every_stage.publish import published
    plain, moment = os.replace, int(sys.argv[2])
    def replace(*names):
        plain(*names)
        os.kill(os.getpid(), signal.SIGKILL) if moment == 1 else None
    os.replace = replace if moment else plain
    with published(Path(sys.argv[1])) as path:
        path.mkdir()
        (path / "new").touch()
        os.kill(os.getpid(), signal.SIGKILL) if moment == 0 else None
"""


@pytest.mark.parametrize("moment", [0, 1], ids=["while writing", "between the two renames"])
def test_killed_while_it_replaces_a_directory_the_next_one_finds_all(tmp_path, moment):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    done = subprocess.run([sys.executable, "-c", KILLED, str(target), str(moment)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(RuntimeError), published(target):
        assert os.listdir(target) == ["old"]  # put back
        raise RuntimeError
    assert os.listdir(tmp_path) == ["out"] and os.listdir(target) == ["old"]


def test_a_message_says_what_was_published(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "done", [])
    with pytest.raises(UserError, match="nothing was published"), published(tmp_path / "first"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with published(tmp_path / "first") as path:
        path.touch()
    with pytest.raises(UserError, match="first was published"), published(tmp_path / "second"):
        raise OSError(errno.ENOSPC, "No space left on device", "/elsewhere/file")


def test_what_is_no_fault_of_the_disk_is_not_said_to_be(tmp_path):
    with pytest.raises(BrokenPipeError), published(tmp_path / "out"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    with (
        pytest.raises(UserError, match="tokenizer.json: No such file or directory: it was removed"),
        published(tmp_path / "out"),
    ):
        (tmp_path / "tokenizer.json").read_bytes()
