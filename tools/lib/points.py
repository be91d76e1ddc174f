"""A sweep point: one DVC experiment of the whole chain, known by what it is made of.

Its name is its overrides and a digest of every resolved value and every input file, such as
`sft.lora.r=4,sft.learning_rate=1e-4-3f09c1d2aa`. An experiment of that digest is this point, whoever made it and
whenever; nothing else says that a point is done.

A point runs in a clone of the workspace that shares Git's objects and DVC's cache with it. `dvc exp run --temp` would
stash the workspace's changes and reset it to begin with: points that begin together get in each other's way there, and
a process killed in between leaves the workspace's changes in a stash.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.publish import published, remove
from stages.lib.every_stage.records import write_json
from tools.lib.gpus import one_gpu
from tools.lib.locks import locked, try_lock, wait_lock

if TYPE_CHECKING:
    from collections.abc import Mapping

POINTS = Path("multirun/points")
"""A folder for each point, by its digest: point.json (what became of it and what it cost), dvc.log, its lock."""
CLONES = Path(".dvc/tmp/points")
SFT_LOG = Path("metrics/sft_log.csv")
RUN_RECORDS = Path("metrics/runs")
DIGEST = re.compile(r"-([0-9a-f]{10})$")


@dataclass
class Point:
    """What one combination of overrides comes to."""

    overrides: list[str]  # as Hydra gives them: sft.lora.r=4
    sections: dict[str, Any]  # params.lock.yaml as it must come out
    inputs: str  # fingerprint() when the sweep began

    @property
    def digest(self) -> str:
        """Ten hexadecimal digits that differ for different values or inputs."""
        return digest_of([self.sections, self.inputs])

    @property
    def name(self) -> str:
        """A name that Git takes as a reference; Hangul stays."""
        label = re.sub(r"[^\w=.,+-]+|\.{2,}", "-", ",".join(self.overrides) or "workspace")
        return f"{label[:60].lstrip('-.')}-{self.digest}"

    @property
    def place(self) -> Path:
        """Its folder: one for all ways to write the same overrides."""
        return POINTS / self.digest

    def parameters(self) -> list[str]:
        """The overrides as options of `dvc exp run`; ++ sets what params.yaml doesn't spell out too."""
        return [word for override in self.overrides for word in ("--set-param", f"++{override.lstrip('+')}")]


def digest_of(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:10]


def git(*words: str, directory: Path = Path()) -> str:
    """Standard output of a Git command; raises UserError with what Git said."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    done = subprocess.run(["git", *words], cwd=directory, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {' '.join(words[:2])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def environment(**more: str) -> dict[str, str]:
    """The environment of DVC's processes: this interpreter's programs first, nothing of a DVC stage around us.

    DVC's usage report is sent by a process that outlives the command and opens its repository once more, which would
    bring back a part of a clone that was removed.
    """
    outer = {key: value for key, value in os.environ.items() if key not in ("DVC_STAGE", "DVC_ROOT", "DVC_EXP_NAME")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**outer, "PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1", **more}


def pipeline() -> dict[str, Any]:
    """The stages of dvc.yaml."""
    return yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]


def input_paths() -> list[str]:
    """The files and folders that the chain starts from: what stages need and none makes.

    The config stage's own are left out: all that they decide is in the resolved values.
    """
    stages = pipeline()

    def paths(key: str, names: list[str]) -> set[str]:
        entries = [entry for name in names for entry in stages[name].get(key, [])]
        return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}

    made = {path for key in ("outs", "metrics", "plots") for path in paths(key, list(stages))}
    needed = paths("deps", [name for name in stages if name != "config"])
    # A dependency may also be inside what a stage makes, as models/base/lineage.json does.
    return sorted(path for path in needed if not made & {path, *map(str, Path(path).parents)})


def is_input(path: Path) -> bool:
    """Whether a file in an input folder counts: Python writes bytecode beside code while it runs."""
    return path.parent.name != "__pycache__"


def untracked_inputs() -> list[str]:
    """The input files that Git doesn't have, those that it ignores too."""
    listed = git("ls-files", "--others", "-z", "--", *input_paths()).split("\0")
    return [path for path in listed if path and is_input(Path(path))]


def fingerprint() -> str:
    """A digest of dvc.yaml's stages and the bytes of every input. Raises UserError for an input that is missing."""
    content: list[Any] = [pipeline()]
    for name in input_paths():
        path = Path(name)
        if not path.exists():
            raise UserError(f"{name}: no such file or folder; dvc.yaml names it as an input. Restore it")
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        for file in filter(is_input, files):
            with file.open("rb") as stream:
                content.append([str(file), hashlib.file_digest(stream, "sha256").hexdigest()])
    return digest_of(content)


def experiments() -> dict[str, str]:
    """Commits of the finished points of this repository by their digests, on whatever commit they were begun."""
    listed = git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps")
    found = {}
    for line in listed.splitlines():
        reference, commit = line.rsplit(" ", 1)
        if match := DIGEST.search(reference):
            found[match[1]] = commit
    return found


def run_point(point: Point, hopeless: float = 0.0) -> dict[str, Any]:
    """Run a point, unless it ran before, and return what became of it; point.json holds the same.

    status is done, kept (it ran before), stopped (by `hopeless`, see stop_reason) or failed; reason says why. A point
    that another process is running is waited for: a sweep that was killed may have left it at work.
    """
    if point.digest in experiments():
        return record(point, "kept")
    lock = try_lock(point.place / "lock")
    if lock is None:
        print(f"{point.name}: another process is running it; waiting", flush=True)
        lock = wait_lock(point.place / "lock")
    with locked(lock):
        try:
            refuse_changed_inputs(point)
            if point.digest in experiments():
                return record(point, "kept")
            if references(point, left := CLONES / point.digest):  # a killed sweep's point that went on to its end
                costs = collect(point, left)
                discard(left)
                return record(point, "done", **costs)
            prepare_data(point)
            started = time.monotonic()
            with one_gpu(POINTS) as (gpu, gpu_lock), clone(point.digest) as directory:
                chosen = {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
                held = [descriptor for descriptor in (lock, gpu_lock) if descriptor is not None]
                if reason := run_dvc(point, directory, chosen, held, hopeless):
                    return record(point, "stopped", reason=reason, gpu=gpu)
                costs = collect(point, directory)
            return record(point, "done", **costs, gpu=gpu, wall_seconds=round(time.monotonic() - started, 1))
        except UserError as error:
            return record(point, "failed", reason=str(error))


def collect(point: Point, directory: Path) -> dict[str, Any]:
    """Bring the finished experiment of a clone here; what it cost."""
    lock_file = (directory / "params.lock.yaml").read_text(encoding="utf-8")
    refuse_other_parameters(point, yaml.safe_load(lock_file))
    fetch(point, directory)
    return {"stages": stage_costs(directory / RUN_RECORDS), "sft_loss": last_loss(directory / SFT_LOG)}


def run_dvc(point: Point, directory: Path, chosen: dict[str, str], held: list[int], hopeless: float) -> str:
    """Run the chain as an experiment in `directory`; "" or the reason why it was stopped before its end.

    The child inherits the locks in `held`, so a point stays taken while it runs, whatever happens to this process.
    Raises UserError with the reason that the log gives if the chain fails.
    """
    command = [sys.executable, "-m", "dvc", "exp", "run", "--name", point.name, *point.parameters()]
    log = point.place / "dvc.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            cwd=directory,
            env=environment(**chosen, **own_site_cache(directory)),
            stdout=output,
            stderr=output,
            pass_fds=held,
        )
        try:
            while child.poll() is None:
                time.sleep(0.2)
                if hopeless and (reason := stop_reason(point, directory, log, hopeless)):
                    return reason
        finally:  # also of Ctrl-C: nothing may go on working in a clone that is about to be removed
            if child.poll() is None:
                kill_tree(child)
    if child.returncode:
        raise UserError(failure(log.read_text(encoding="utf-8", errors="replace"), log))
    return ""


def failure(text: str, log: Path) -> str:
    """Why a chain failed: what its stage said last, on one line; DVC's own error where no stage is to blame."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if line.startswith("ERROR: ")]
    if not errors:
        return f"{' '.join(lines[-1:]) or 'DVC ended without a word'} (all of it: {log})"
    error = lines[errors[0]].removeprefix("ERROR: ")
    if ended := re.search(r"exited with -(\d+)$", error):
        name = signal.Signals(int(ended[1])).name
        likely = ": the machine was out of memory, or somebody ended it" if name == "SIGKILL" else ""
        stage = re.search(r"'([\w-]+)'", error)
        return f"{stage[1] if stage else 'a stage'} was ended by {name}{likely} (all of it: {log})"
    if stage := re.search(r"failed to reproduce '([\w-]+)'", error):
        said = [number for number in range(errors[0]) if lines[number].startswith(f"{stage[1]}: ")]
        begin = said[-1] if said else errors[0] - 1
        error = "; ".join(lines[max(begin, 0) : errors[0]])
    return f"{error} (all of it: {log})"


def refuse_changed_inputs(point: Point) -> None:
    """Raise UserError if code or data are no longer those that the sweep began with: its points must be comparable."""
    if fingerprint() != point.inputs:
        raise UserError(
            "code or data in the workspace changed while the sweep ran, so its points would not be comparable. "
            "Undo the change, or keep it; then give the same command again: what holds already is not run again"
        )


def refuse_other_parameters(point: Point, found: Mapping[str, object]) -> None:
    """Raise UserError if the experiment's params.lock.yaml, `found`, has other values than were asked for."""
    asked = json.loads(json.dumps(point.sections))
    differing = sorted(name for name in asked if found.get(name) != asked[name])
    if differing:
        raise UserError(
            f"the experiment ran with other values in {', '.join(differing)} than {' '.join(point.overrides)} asks "
            "for; params.yaml or conf/ changed while the sweep ran. Give the same command again"
        )


def prepare_data(point: Point) -> None:
    """Run the data stages once for all points whose data sections are equal, before any of them begins.

    DVC's cache hands the result to the points. Points that began together would each prepare the data otherwise.
    """
    stages = [name for name in pipeline() if name.startswith("prepare-")]
    sections = {name: point.sections[name] for name in point.sections if name.startswith("prepare_")}
    marker = POINTS / f"data-{digest_of([sections, point.inputs])}"
    with locked(wait_lock(marker.with_suffix(".lock"))):
        if marker.exists():
            return
        with clone(marker.name) as directory:
            told = environment(**own_site_cache(directory))
            command = [sys.executable, "-m", "dvc", "exp", "run", "--name", marker.name, *point.parameters(), *stages]
            done = subprocess.run(command, cwd=directory, env=told, capture_output=True, text=True)
            marker.with_suffix(".log").write_text(done.stdout + done.stderr, encoding="utf-8")
            if done.returncode:
                raise UserError(failure(done.stdout + done.stderr, marker.with_suffix(".log")))
        marker.touch()


@contextmanager
def clone(name: str) -> Iterator[Path]:
    """Give a directory with the workspace as it stands, untracked inputs included, and remove it after the block.

    It shares Git's objects and DVC's cache with the workspace, so models are linked and not copied.
    """
    directory = CLONES / name
    discard(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    git("clone", "--quiet", "--shared", "--no-checkout", str(Path.cwd()), str(directory))
    git("checkout", "--quiet", "--detach", git("rev-parse", "HEAD").strip(), directory=directory)
    for key in ("user.name", "user.email"):
        value = subprocess.run(["git", "config", key], capture_output=True, text=True).stdout.strip()
        git("config", key, value or "graft", directory=directory)
    changed = git("diff", "--name-only", "--no-renames", "-z", "HEAD").split("\0")
    for path in filter(None, [*changed, *untracked_inputs()]):
        if Path(path).is_symlink() or Path(path).is_file():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            remove(directory / path)
            shutil.copy2(path, directory / path, follow_symlinks=False)
        else:
            remove(directory / path)
    share_cache(directory)
    try:
        yield directory
    finally:
        discard(directory)


def share_cache(directory: Path) -> None:
    """Let DVC in a clone use this workspace's cache and its local settings."""
    from dvc.config import Config
    from dvc.repo import Repo

    with Repo() as repository:
        cache = repository.cache.local_cache_dir
    if (local := Path(".dvc/config.local")).is_file():
        shutil.copy2(local, directory / local)  # with its mode: it may hold keys of a remote
    with Config(str(directory / ".dvc")).edit("local") as settings:
        # Relative: DVC writes its configuration in ASCII, and a folder above may be called anything.
        settings["cache"] = {**settings.get("cache", {}), "dir": os.path.relpath(cache)}


def own_site_cache(directory: Path) -> dict[str, str]:
    """What tells DVC in a clone to keep its own bookkeeping there; it has no relative way to say so."""
    return {"DVC_SITE_CACHE_DIR": str((directory / ".dvc/tmp/site").resolve())}


def discard(directory: Path) -> None:
    """Remove a clone. Cached files in it are read-only links, but their folders are not."""
    if directory.exists():
        doomed = directory.with_name(f".{directory.name}.{os.getpid()}.{time.time_ns()}")
        directory.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def references(point: Point, directory: Path) -> list[str]:
    """Git's references to the experiment of a point in a clone, if it is there and finished."""
    if not (directory / ".git").exists():
        return []
    listed = git("for-each-ref", "--format=%(refname)", "refs/exps", directory=directory).split()
    return [name for name in listed if name.endswith(f"-{point.digest}")]


def fetch(point: Point, directory: Path) -> None:
    """Bring the finished experiment of a clone into this repository.

    References are files of their own, so points that end together don't wait for each other; Git's lock on all of
    them together is retried. Raises UserError if there is no experiment.
    """
    if not (found := references(point, directory)):
        raise UserError(f"DVC ended well but left no experiment {point.name}; see {point.place / 'dvc.log'}")
    words = ["-c", "gc.auto=0", "-c", "maintenance.auto=false", "fetch", "--quiet", "--no-write-fetch-head"]
    for attempt in range(10):
        try:
            git(*words, str(directory.resolve()), *[f"{name}:{name}" for name in found])
            return
        except UserError as error:
            if ".lock" not in str(error) or attempt == 9:
                raise
            time.sleep(0.2 * (attempt + 1))


def stage_costs(directory: Path) -> dict[str, dict[str, Any]]:
    """What the stages that really ran cost, from their run records: seconds of the stage and of its process, MiB."""
    costs = {}
    for path in sorted(directory.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        names = ("seconds", "process_seconds", "peak_memory_mib", "gpu_peak_memory_mib")
        costs[content["stage"]] = {name: content[name] for name in names if name in content}
    return costs


def record(point: Point, status: str, **facts: object) -> dict[str, Any]:
    """What became of a point, written to its point.json; for a point that ran before, with what it cost then."""
    path = point.place / "point.json"
    before = json.loads(path.read_text(encoding="utf-8")) if status == "kept" and path.is_file() else {}
    known = {"name": point.name, "digest": point.digest, "inputs": point.inputs, "overrides": point.overrides}
    content = {**before, "reason": "", **facts, **known, "status": status}
    with published(path) as sibling:
        write_json(sibling, content)
    return content


def last_loss(log: Path) -> float | None:
    """The last loss that a training log tells; None without one."""
    if not log.is_file():
        return None
    with log.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return float(rows[-1]["loss"]) if rows else None


def stop_reason(point: Point, directory: Path, log: Path, hopeless: float) -> str:
    """Why a point is not worth going on with once its SFT is over; "" if it is, or if SFT still runs.

    Hopeless is a last SFT loss more than `hopeless` times the lowest of the finished points on the same inputs. The
    loss is no score: a point stopped by it might have scored best, and the table says that nobody knows.
    """
    if "tage 'merge'" not in log.read_text(encoding="utf-8", errors="replace"):
        return ""
    loss = last_loss(directory / SFT_LOG)
    finished = [json.loads(path.read_text(encoding="utf-8")) for path in POINTS.glob("*/point.json")]
    losses = [
        other["sft_loss"] for other in finished if other["inputs"] == point.inputs and other.get("sft_loss") is not None
    ]
    if loss is None or not losses or loss <= hopeless * min(losses):
        return ""
    return (
        f"SFT ended at a loss of {loss:.3f}, more than {hopeless:g} times the lowest of the finished points, "
        f"{min(losses):.3f}; dpo and evaluate were not run, so its score is not known"
    )


def kill_tree(child: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, and wait for them."""
    import psutil

    processes = [*psutil.Process(child.pid).children(recursive=True), psutil.Process(child.pid)]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes)
    child.wait()
