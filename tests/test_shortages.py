"""Disks, memory and pipes that give out: one true sentence, an exit status that is not 0, nothing half-published."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, tiny_training

from stages.lib.every_stage.lineage import arguments_of
from stages.lib.schema.training import Sft

mounts = pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0, reason="needs user namespaces"
)


@pytest.fixture(scope="module")
def workspace(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the prepared place, with the resolved values in which sft trains the tiny model for two steps."""
    place = tmp_path_factory.mktemp("shortages") / "work"
    shutil.copytree(prepared, place)
    subprocess.run([sys.executable, "-m", "stages.config"], cwd=place, env=environment(place), check=True)
    lock = yaml.safe_load((place / "params.lock.yaml").read_text(encoding="utf-8"))
    lock["sft"] = arguments_of(Sft(**tiny_training(max_steps=2, checkpoint_minutes=0.0)))
    (place / "params.lock.yaml").write_text(yaml.safe_dump(lock), encoding="utf-8")
    shutil.rmtree(place / "data/prepared/ultrachat")
    shutil.copytree(prepared / "data/prepared/ultrachat", place / "data/prepared/ultrachat")
    return place


def environment(place: Path, stage: str = "") -> dict[str, str]:
    more = {"DVC_STAGE": stage} if stage else {}
    return {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(place / "cache"), **more}


def run(place: Path, stage: str, *before: str, **options: object) -> subprocess.CompletedProcess[str]:
    """A stage as DVC starts it, its outputs removed before; `before` is the program that starts it."""
    for out in ("models/sft", "data/prepared/new"):
        shutil.rmtree(place / out, ignore_errors=True)
    command = [*before, sys.executable, "-m", f"stages.{stage}"]
    standard = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.run(
        command, cwd=place, env=environment(place, stage.replace("_", "-")), **{**standard, **options}
    )


def in_small_folder(folder: Path, kibibytes: int) -> list[str]:
    """What starts a program for which `folder` is a disk of so many KiB."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = f'mount -t tmpfs -o size={kibibytes}k tmpfs "{folder}" && exec "$@"'
    return ["unshare", "-rm", "sh", "-c", mount, "sh"]


def one_sentence(done: subprocess.CompletedProcess[str], name: str) -> str:
    """The message of a program that failed; asserts that there is nothing else."""
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(f"{name}: ")]
    return line


@mounts
@pytest.mark.slow
def test_a_full_checkpoint_home(workspace):
    done = run(workspace, "sft", *in_small_folder(workspace / "cache/graft", 64))
    line = one_sentence(done, "sft")
    assert "cache/graft/checkpoints/sft-" in line and "can't be written: " in line
    assert "only metrics/sft_preview.html was published" in line
    assert not (workspace / "models/sft").exists()


@mounts
def test_a_full_folder_for_temporary_files(workspace):
    folder = workspace / "temporary"
    before = ["env", f"TMPDIR={folder}"]
    done = run(workspace, "prepare_pdf_qa", *in_small_folder(folder, 8), *before)
    line = one_sentence(done, "prepare-pdf-qa")
    assert "can't be written" in line and f"TMPDIR ({folder}) 0 MiB" in line


def test_files_that_this_user_may_not_read(workspace):
    """Such as those that a container left to root."""
    as_others = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"] if os.geteuid() == 0 else []
    path = workspace / "models/base/tokenizer.json"
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        done = run(workspace, "prepare_pdf_qa", *as_others)
    finally:
        path.chmod(mode)
    line = one_sentence(done, "prepare-pdf-qa")
    assert line.endswith(
        "models/base/tokenizer.json: Permission denied. Give this user the right to read and write it; "
        "nothing was published"
    )


def test_standard_output_that_is_closed(workspace):
    reader, writer = os.pipe()
    os.close(reader)
    done = run(workspace, "prepare_ultrachat", stdout=writer)
    os.close(writer)
    line = one_sentence(done, "prepare-ultrachat")
    assert "standard output was closed by what reads it; only " in line and "was published" in line
    assert (workspace / "data/prepared/ultrachat/train.jsonl").is_file()


def test_standard_output_that_is_full(workspace):
    with open("/dev/full", "w") as full:
        done = run(workspace, "prepare_ultrachat", stdout=full)
    assert "can't be written: No space left on device" in one_sentence(done, "prepare-ultrachat")


def test_no_standard_output_at_all(workspace):
    """Nobody wants to read it: that is no failure."""
    done = run(workspace, "prepare_ultrachat", "sh", "-c", 'exec "$@" >&-', "sh")
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.slow
def test_standard_output_that_is_closed_while_training(workspace):
    running = subprocess.Popen(
        [sys.executable, "-m", "stages.sft"],
        cwd=workspace,
        env=environment(workspace, "sft"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout and running.stderr
    running.stdout.readline()
    running.stdout.close()
    errors = running.stderr.read()
    assert running.wait() == 1
    assert "sft: standard output was closed by what reads it; " in errors and "Traceback" not in errors
    assert not (workspace / "models/sft").exists()


LIMITED = """if True:
    import resource, runpy, sys
    import torch, transformers, trl, peft, bitsandbytes
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 1_200_000_000, -1))
    try:
        runpy.run_module("stages.sft", run_name="__main__")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))  # torch says something of its own at the end"""


@pytest.mark.slow
def test_memory_that_is_full(workspace):
    """Within the limit torch's large allocations fail, not one of a few bytes somewhere else."""
    lock = yaml.safe_load((workspace / "params.lock.yaml").read_text(encoding="utf-8"))
    lock["sft"] |= {"batch_size": 64, "micro_batch_size": 64, "padding_free": "never"}
    place = workspace.parent / "wide"
    shutil.copytree(workspace, place, symlinks=True)
    (place / "params.lock.yaml").write_text(yaml.safe_dump(lock), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        cwd=place,
        env=environment(place, "sft"),
        capture_output=True,
        text=True,
    )
    assert "out of memory: " in one_sentence(done, "sft")
    assert not (place / "models/sft").exists()
