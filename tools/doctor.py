"""Whether this machine and this repository are ready, a line for each thing that a run needs, with what to do.

Reads   pyproject.toml, constraints.txt, metrics/runs/
Run     graft doctor        exit status 1 where something prevents a run
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from stages.lib.every_stage.entry import DVC_LOCK, exit_on_user_error
from stages.lib.every_stage.errors import UserError
from stages.lib.hardware import usable_cores
from tools.lib.expected_run import last_run
from tools.repair import is_readable

MEMORY_GIB, DISK_GIB = 4, 5
"""What the default chain takes: README.md's table of peaks, and its models with DVC's cache."""


@dataclass
class Finding:
    """One thing that was looked at. `good`: None where it is no more than a fact, or slower than it could be."""

    about: str
    good: bool | None
    said: str


def findings() -> Iterator[Finding]:
    """Look at one thing after the other."""
    yield python()
    yield packages()
    yield torch_build()
    yield cores()
    yield memory()
    yield disk()
    yield programs()
    yield lock()


def python() -> Finding:
    """The Python that this runs in, by pyproject.toml's bounds."""
    from packaging.specifiers import SpecifierSet

    asked = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    here = ".".join(map(str, sys.version_info[:3]))
    good = here in SpecifierSet(asked)
    return Finding(
        "python", good, here if good else f"found {here}, needed {asked}: make setup PYTHON=/path/to/another"
    )


def set_up() -> str:
    """The command that installs packages: here, or in the image of the container that this runs in."""
    return "docker compose build" if os.environ.get("GRAFT_VENV") else "make setup"


def packages() -> Finding:
    """The installed packages, by constraints.txt's versions."""
    pins = re.findall(r"^([\w.-]+)==([\w.+-]+)", Path("constraints.txt").read_text(encoding="utf-8"), flags=re.M)
    others = []
    for name, pinned in pins:
        try:
            found = version(name)
        except PackageNotFoundError:
            continue  # of an extra that isn't installed, or of another system
        if found.partition("+")[0] != pinned.partition("+")[0]:
            others.append(f"{name} {found} for {pinned}")
    if not others:
        return Finding("packages", True, "as in constraints.txt")
    return Finding(
        "packages", None, f"other versions than constraints.txt: {', '.join(others)}; {set_up()} puts them back"
    )


def torch_build() -> Finding:
    """Whether torch can use the GPU that is there."""
    try:
        built = version("torch")
    except PackageNotFoundError:
        return Finding("torch", False, f"not installed: {set_up()}")
    driver = shutil.which("nvidia-smi")
    if not driver:
        return Finding("torch", True, f"{built}; no NVIDIA driver here, so on the CPU")
    import torch

    if torch.cuda.is_available():
        return Finding("torch", True, f"{built} on {torch.cuda.get_device_name()}")
    return Finding("torch", None, f"{built} doesn't see the GPU of {driver}: pip install a build of torch for CUDA")


def cores() -> Finding:
    """How many cores this process may use, and whether others use them."""
    usable = usable_cores()
    load = psutil.cpu_percent(interval=0.5) / 100 * (os.cpu_count() or 1)
    busy = load > 0.5
    return Finding(
        "cores", None if busy else True, f"{usable} usable{f', {load:.1f} of them busy now' if busy else ''}"
    )


def memory() -> Finding:
    """Free memory beside what the last runs took."""
    free = psutil.virtual_memory().available / 2**30
    peaks = [record["peak_memory_mib"] / 1024 for name in ("sft", "dpo", "evaluate") if (record := last_run(name))]
    needed = max(peaks) if peaks else MEMORY_GIB
    by = "the last run here" if peaks else "the default chain"
    said = f"{free:.1f} GiB free, {by} took {needed:.1f}"
    return Finding("memory", free > needed or None, said if free > needed else f"{said}: close other programs")


def disk() -> Finding:
    """Free disk in the repository."""
    free = shutil.disk_usage(".").free / 2**30
    said = f"{free:.0f} GiB free, the default chain takes {DISK_GIB} with its packages"
    return Finding("disk", free > DISK_GIB, said if free > DISK_GIB else f"{said}: make room")


def programs() -> Finding:
    """git and dvc."""
    missing = [name for name in ("git", "dvc") if not shutil.which(name)]
    if missing:
        return Finding("programs", False, f"found no {' and no '.join(missing)} on PATH: source .venv/bin/activate")
    if subprocess.run(["git", "rev-parse", "--git-dir"], capture_output=True).returncode:
        return Finding("programs", False, "git and dvc are there, but this is no repository of Git: clone it")
    return Finding("programs", True, "git and dvc are there")


def lock() -> Finding:
    """dvc.lock, which DVC rewrites in place."""
    if DVC_LOCK.is_file() and not is_readable(DVC_LOCK.read_bytes()):
        return Finding("dvc.lock", False, "only a part of it is there: graft repair")
    return Finding("dvc.lock", True, "whole" if DVC_LOCK.is_file() else "none yet: nothing has run")


def doctor() -> None:
    """Print all findings. Raises UserError where one prevents a run."""
    bad = []
    for found in findings():
        mark = {True: "ok", False: "needed", None: "note"}[found.good]
        print(f"{mark:8}{found.about:10}{found.said}", flush=True)
        if found.good is False:
            bad.append(found.about)
    if bad:
        raise UserError(f"not ready: {', '.join(bad)}")


if __name__ == "__main__":
    exit_on_user_error("doctor", doctor)
