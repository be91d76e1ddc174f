"""Outputs appear whole or not at all."""

import os

import pytest

from stages.lib.errors import UserError
from stages.lib.publish import published


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
