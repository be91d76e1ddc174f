"""The Makefile takes a Python that fits, and says what is needed before it makes or downloads anything."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


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


def installs(done: subprocess.CompletedProcess[str], word: str) -> list[str]:
    """The lines of `make -n` that install something with this word."""
    lines = done.stdout.replace("\\\n", " ").splitlines()
    return [line for line in lines if "pip install" in line and word in line]


def test_torch_is_the_build_that_is_asked_for(tmp_path):
    (cpu,) = installs(make(tmp_path, "-n", "setup", "TORCH=cpu"), "torch==")
    assert "--index-url https://download.pytorch.org/whl/cpu torch==" in cpu
    (cuda,) = installs(make(tmp_path, "-n", "setup", "TORCH=cu130"), "torch==")
    assert "--index-url https://download.pytorch.org/whl/cu130 torch==" in cuda
    (pypi,) = installs(make(tmp_path, "-n", "setup", "TORCH=pypi"), "torch==")
    assert "--index-url" not in pypi


def test_without_an_nvidia_driver_torch_is_the_cpu_build_and_that_is_said(tmp_path):
    done = make(tmp_path, "-n", "setup")
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        pytest.skip("this machine has an NVIDIA driver")
    assert "PyTorch is the build for TORCH=cpu (no NVIDIA driver was found; " in done.stdout
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\n")
    driver.chmod(0o755)
    assert "PyTorch is the build for TORCH=pypi (" in make(tmp_path, "-n", "setup", path=tmp_path).stdout


def test_an_index_that_has_nothing_is_said_and_pypis_build_is_taken(tmp_path):
    """The recipe's own line, with a pip that reaches no other index."""
    (line,) = installs(make(tmp_path, "-n", "setup", "TORCH=cpu"), "torch==")
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\necho "pip $@"\ncase "$*" in *--index-url*) exit 1;; esac\n')
    pip.chmod(0o755)
    command = line.replace(f"{tmp_path / 'venv'}/bin/python -m pip", str(pip))
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0
    first, said, second = done.stdout.splitlines()
    assert "--index-url" in first and "takes the build of PyPI" in said and "--index-url" not in second


def test_pips_own_settings_are_put_aside(tmp_path):
    printed = tmp_path / "more.mk"
    printed.write_text("include Makefile\nprinted:\n\t@echo [$$PIP_USER$$PIP_TARGET$$PIP_PREFIX]\n")
    done = make(tmp_path, "-f", str(printed), "printed", PIP_USER="1", PIP_TARGET="/nowhere", PIP_PREFIX="/p")
    assert done.stdout.strip() == "[]"


PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.M))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = {path.stem: path for path in (ROOT / "locks").glob("*.txt")}


def test_there_is_a_lock_for_each_extra_and_one_without(tmp_path):
    extras = set(PROJECT["project"]["optional-dependencies"])
    assert set(LOCKS) == {"graft", *extras} - {"ray"}  # Ray has no wheels for all the Pythons that fit


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_the_pinned_versions_with_hashes_and_no_torch(name):
    pins = {canonicalize_name(each): version for each, version in PINS.items()}
    entries = re.split(r"\n(?=\S)", LOCKS[name].read_text(encoding="utf-8").strip())
    locked = {}
    for entry in entries:
        requirement = Requirement(entry.split("\\")[0].strip())
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
        (version,) = (each.version for each in requirement.specifier)
        locked[canonicalize_name(requirement.name)] = version
    elsewhere = {"httpx2-jsfetch", "pywin32", "tzdata"}  # of other systems, by markers
    assert {each: version for each, version in locked.items() if pins.get(each) != version}.keys() <= elsewhere
    assert not [each for each in locked if each == "torch" or each.startswith(("nvidia-", "cuda-", "triton"))]
    sections = [PROJECT["project"]["dependencies"], PROJECT["project"]["optional-dependencies"].get(name, [])]
    asked = {canonicalize_name(Requirement(each).name) for section in sections for each in section}
    assert asked - {"torch", "graft"} <= set(locked), "run `make lock`"
