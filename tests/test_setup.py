"""The Makefile takes a Python that fits, and says what is needed before it makes or downloads anything."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT


def make(folder: Path, *words: str, path: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    search = f"{path}{os.pathsep}{os.environ['PATH']}" if path else os.environ["PATH"]
    env = {**os.environ, "PATH": search, **environment}
    command = ["make", "-C", str(ROOT), "--no-print-directory", *words, f"VENV={folder / 'venv'}"]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def stand_in(folder: Path, name: str, version: str) -> Path:
    """A program that calls itself that Python: whether it fits follows from its version as the Makefile asks."""
    program = folder / name
    minor = int(version.split(".")[1])
    fits = 0 if 11 <= minor < 14 else 1
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" && exit 0\nexit {fits}\n')
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("version", ["3.10.13", "3.14.0"])
def test_a_python_that_does_not_fit_is_named_and_nothing_is_made(tmp_path, version):
    done = make(tmp_path, "setup", f"PYTHON={stand_in(tmp_path, 'other', version)}")
    assert done.returncode
    said = f"make: found Python {version}, needed Python 3.11, 3.12 or 3.13 ("
    assert said in done.stdout and "make PYTHON=/path/to/python3)" in done.stdout
    assert not (tmp_path / "venv").exists()


def test_no_python_at_all_is_said(tmp_path):
    done = make(tmp_path, "setup", "PYTHON=")
    assert done.returncode and "make: found no Python, needed Python 3.11, 3.12 or 3.13" in done.stdout
    assert not (tmp_path / "venv").exists()


def test_the_first_python_that_fits_is_taken(tmp_path):
    stand_in(tmp_path, "python3.11", "3.9.1")  # a shim of that name without that version behind it
    stand_in(tmp_path, "python3.12", "3.12.1")
    done = make(tmp_path, "-n", "setup", path=tmp_path)
    assert f"python3.12 -m venv {tmp_path / 'venv'}" in done.stdout, done.stdout


def test_torch_comes_from_the_index_that_is_asked_for_and_pips_own_settings_are_put_aside(tmp_path):
    done = make(tmp_path, "-n", "setup", "TORCH_INDEX=https://example.test/cpu", PIP_USER="1", PIP_TARGET="/nowhere")
    (line,) = (
        line for line in done.stdout.replace("\\\n", " ").splitlines() if "torch==" in line and "install" in line
    )
    assert "--index-url https://example.test/cpu torch==" in line
    printed = tmp_path / "more.mk"
    printed.write_text("include Makefile\nprinted:\n\t@echo [$$PIP_USER$$PIP_TARGET$$PIP_PREFIX]\n")
    done = make(tmp_path, "-f", str(printed), "printed", PIP_USER="1", PIP_TARGET="/nowhere", PIP_PREFIX="/p")
    assert done.stdout.strip() == "[]"
