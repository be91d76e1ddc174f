"""A sweep runs each point once, whatever is started, killed or broken around it, and leaves the workspace alone."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from short_chain import ShortChain

from tools.lib import queue

pytestmark = pytest.mark.slow
GRID = ["sft.lora.r=4,8", "sft.learning_rate=0.1,0.2"]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> ShortChain:
    return ShortChain(tmp_path_factory.mktemp("start") / "chain")


@pytest.fixture
def chain(start: ShortChain, tmp_path: Path) -> ShortChain:
    return start.fresh(tmp_path / "chain")


def statuses(chain: ShortChain) -> Counter:
    return Counter(row["status"] for row in chain.rows())


def test_points_side_by_side(chain):
    """Right values in each, data prepared once, the workspace left alone; the same command runs nothing again."""
    before = chain.run("git", "rev-parse", "HEAD")
    output = chain.sweep(*GRID, *JOBLIB)
    rows = {(row["overrides"]["sft.lora.r"], row["overrides"]["sft.learning_rate"]): row for row in chain.rows()}
    assert statuses(chain) == {"done": 4}
    for (r, rate), row in rows.items():
        assert row["score"] == pytest.approx(int(r) / 100 + float(rate) + 3e-6)
        assert (row["seconds"], row["peak_memory_mib"], row["trained_parameters"]) == (
            int(r) + 2,
            100 + int(r),
            int(r) * 4,
        )
    assert len(chain.events("prepare_base")) == 1
    assert len(chain.events("sft")) == 4
    assert all(event["links"] > 1 for event in chain.events("sft"))  # the cache's own file, not a copy
    assert chain.run("git", "rev-parse", "HEAD") == before
    assert chain.run("git", "status", "--porcelain") == chain.run("git", "stash", "list") == ""
    assert not list(chain.directory.glob(".dvc/tmp/points/*"))
    assert "sft.lora.r=8 sft.learning_rate=0.2" in output.split("point  ")[1].splitlines()[1]  # the best comes first

    place = max(chain.directory.glob("multirun/sweep/*"))
    with (place / "table.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["sft.lora.r"] for line in table] == ["8", "4", "8", "4"]
    assert all(0 < float(line["overhead_seconds"]) < float(line["wall_seconds"]) for line in table)
    assert all(float(line["low"]) < float(line["score"]) < float(line["high"]) for line in table)
    assert "sft.learning_rate" in (place / "heat_map.svg").read_text(encoding="utf-8")
    assert "sft.lora.r=8" in (place / "cost.svg").read_text(encoding="utf-8")

    chain.sweep("sft.learning_rate=1e-1,2e-1", "sft.lora.r=8,4", *JOBLIB)  # the same points in other words
    assert statuses(chain) == {"kept": 4}
    assert len(chain.events("sft")) == 4
    assert {row["seconds"] for row in chain.rows()} == {6, 10}  # what they cost when they ran


def test_a_point_that_fails_is_listed_with_its_reason_and_stops_no_other(chain):
    output = chain.sweep("sft.lora.r=13,4,0", fails=True)
    assert statuses(chain) == {"done": 1, "failed": 2}
    assert "failed: sft.lora.r=13: sft: found an unlucky rank, needed another; 다른 값을 고르세요" in output
    assert "failed: sft.lora.r=0: sft.lora.r: found 0, needed 1 or more" in output
    assert "sweep: 2 of 3 points failed" in output
    chain.sweep("sft.lora.r=13,4", fails=True)
    assert statuses(chain) == {"kept": 1, "failed": 1}
    assert [event["r"] for event in chain.events("sft")] == [13, 4, 13]


@pytest.mark.parametrize("whole_group", [False, True])
def test_a_killed_sweep_resumes_where_it_stopped(chain, whole_group):
    """SIGKILL of the sweep alone leaves a point at work, which is waited for; of the whole group, one to run again."""
    command = [sys.executable, "-m", "tools.sweep", "--multirun", "sft.lora.r=2,4,6"]
    running = subprocess.Popen(
        command, cwd=chain.directory, env=chain.environment(CHAIN_SECONDS="3"), start_new_session=True
    )
    deadline = time.time() + 120
    while len(chain.events("sft")) < 2:
        assert time.time() < deadline and running.poll() is None
        time.sleep(0.05)
    if whole_group:
        os.killpg(running.pid, signal.SIGKILL)
    else:
        running.kill()
    running.wait()
    output = chain.sweep("sft.lora.r=2,4,6")
    assert [row["overrides"]["sft.lora.r"] for row in chain.rows()] == ["6", "4", "2"]
    assert all(row["score"] is not None and row["seconds"] for row in chain.rows())
    trained = Counter(event["r"] for event in chain.events("sft"))
    assert trained == ({2: 1, 4: 2, 6: 1} if whole_group else {2: 1, 4: 1, 6: 1})
    assert ("another process is running it" in output) != whole_group
    assert not list(chain.directory.glob(".dvc/tmp/points/*"))


def test_points_see_changes_that_are_not_committed_and_keep_apart_from_those_without(chain):
    chain.sweep("sft.lora.r=4", "sft.learning_rate=7e-4")
    chain.put("data/raw/own.txt", "하나둘")  # untracked
    chain.put("data/raw/a.txt", "달여울시민")  # changed
    chain.sweep("sft.lora.r=4", "sft.learning_rate=7e-4")
    (row,) = chain.rows()
    assert row["status"] == "done" and row["score"] == pytest.approx(0.04 + 7e-4 + 8e-6, abs=1e-9)
    assert chain.run("git", "status", "--porcelain").split() == ["M", "data/raw/a.txt", "??", "data/raw/own.txt"]


def test_a_change_while_the_sweep_runs_fails_the_points_after_it(chain):
    command = [sys.executable, "-m", "tools.sweep", "--multirun", "sft.lora.r=2,4"]
    running = subprocess.Popen(
        command, cwd=chain.directory, env=chain.environment(CHAIN_SECONDS="2"), stdout=subprocess.PIPE, text=True
    )
    while not chain.events("sft"):
        assert running.poll() is None
        time.sleep(0.05)
    chain.put("data/raw/a.txt", "다른")
    output = running.communicate()[0]
    assert running.returncode == 1
    assert "failed  sft.lora.r=4: code or data in the workspace changed while the sweep ran" in output
    assert statuses(chain) == {"done": 1, "failed": 1}


def test_one_point_for_each_gpu(chain):
    chain.sweep("sft.lora.r=2,3,4,5", "hydra/launcher=joblib", "hydra.launcher.n_jobs=4",
                CUDA_VISIBLE_DEVICES="3,5", CHAIN_SECONDS="1")  # fmt: skip
    begins, ends = chain.events("sft"), {event["r"]: event["time"] for event in chain.events("evaluate", "end")}
    assert {event["gpu"] for event in begins} == {"3", "5"}
    for gpu in ("3", "5"):
        mine = [event for event in begins if event["gpu"] == gpu]
        for earlier, later in pairwise(mine):
            assert ends[earlier["r"]] < later["time"]
    assert {row["gpu"] for row in chain.rows()} == {"3", "5"}


def test_hopeless_points_run_to_their_end_unless_asked_otherwise(chain):
    chain.sweep("sft.lora.r=2,9")
    assert statuses(chain) == {"done": 2}
    output = chain.sweep("sft.lora.r=3,8", "sweep.hopeless=3", CHAIN_SECONDS="2")
    assert statuses(chain) == {"done": 1, "stopped": 1}
    assert "stopped: sft.lora.r=8: SFT ended at a loss of 0.800, more than 3 times the lowest of the finished" in output
    assert "its score is not known" in output and chain.rows()[1]["score"] is None
    assert 8 not in [event["r"] for event in chain.events("evaluate")]
    chain.sweep("sft.lora.r=8")
    assert statuses(chain) == {"done": 1}


def test_submitit_runs_points(chain):
    chain.sweep(*GRID, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5")
    assert statuses(chain) == {"done": 4}
    assert len(chain.events("prepare_base")) == 1


def test_optuna_searches_and_goes_on_after_a_failure(chain):
    chain.sweep("sft.lora.r=choice(2,13,9)", "hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=1",
                "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "hydra.sweeper.direction=maximize",
                fails=True)  # fmt: skip
    assert statuses(chain) == {"done": 2, "failed": 1}
    (best,) = chain.directory.glob("multirun/sweep/*/optimization_results.yaml")
    assert "sft.lora.r: 9" in best.read_text(encoding="utf-8")


def test_dvcs_queue_runs_points(chain):
    output = chain.sweep("sft.lora.r=4,13", "sweep.queue=2", fails=True)
    assert statuses(chain) == {"done": 1, "failed": 1}
    assert "failed: sft.lora.r=13: sft: found an unlucky rank" in output
    assert (chain.rows()[0]["seconds"], chain.rows()[0]["trained_parameters"]) == (6, 16)
    assert len(chain.events("prepare_base")) == 1
    chain.sweep("sft.lora.r=4", "sweep.queue=2")
    assert statuses(chain) == {"kept": 1}
    refusal = chain.sweep("sft.lora.r=5", "sweep.queue=2", fails=True, CUDA_VISIBLE_DEVICES="0,1")
    assert "sweep.queue: found 2 GPUs" in refusal


@pytest.mark.slow
def test_a_killed_worker_of_the_queue_holds_up_no_sweep(chain):
    """DVC counts its point as running for ever; what it left at work goes on or not."""
    command = [sys.executable, "-m", "tools.sweep", "--multirun", "sft.lora.r=4,5", "sweep.queue=1"]
    running = subprocess.Popen(
        command, cwd=chain.directory, env=chain.environment(CHAIN_SECONDS="5"), stdout=subprocess.PIPE, text=True
    )
    while not chain.events("sft"):
        assert running.poll() is None
        time.sleep(0.05)
    workers = [process for process in psutil.process_iter(["cmdline", "cwd"])
               if "queue-worker" in (process.info["cmdline"] or [])
               and (process.info["cwd"] or "").startswith(str(chain.directory))]  # fmt: skip
    assert workers
    for worker in workers:
        worker.kill()
    try:
        output = running.communicate(timeout=300)[0]
    finally:
        running.kill()  # or one that waits for ever outlives the test
    assert running.returncode == 0, output
    assert "it is queued again" in output
    assert statuses(chain) == {"done": 2}


def test_a_worker_that_dvc_forgets_to_end_holds_up_nobody(tmp_path, monkeypatch):
    """It has the output of the command that started it, and may live for ever."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nsleep 60 &\necho $! > left\necho started\necho said >&2\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(program))
    began = time.monotonic()
    try:
        assert queue.dvc("queue", "start") == "started\nsaid\n"
        assert time.monotonic() - began < 30
    finally:
        os.kill(int((tmp_path / "left").read_text()), 9)


def test_a_killed_worker_of_joblib_is_one_sentence_and_the_same_command_resumes(chain):
    command = [sys.executable, "-m", "tools.sweep", "--multirun", "sft.lora.r=4,5,6", *JOBLIB]
    pipe = subprocess.PIPE
    running = subprocess.Popen(
        command, cwd=chain.directory, env=chain.environment(CHAIN_SECONDS="5"), stdout=pipe, stderr=pipe, text=True
    )
    while not chain.events("sft"):
        assert running.poll() is None
        time.sleep(0.05)
    workers = [child for child in psutil.Process(running.pid).children() if "popen_loky" in " ".join(child.cmdline())]
    for worker in workers:
        for process in [*worker.children(recursive=True), worker]:
            process.kill()
    errors = running.communicate(timeout=300)[1]
    assert running.returncode == 1
    assert "sweep: a worker process of the sweep was ended" in errors and "Traceback" not in errors, errors
    chain.sweep("sft.lora.r=4,5,6", *JOBLIB)
    assert statuses(chain).keys() <= {"done", "kept"} and len(chain.rows()) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [
        [],
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"],
        ["sweep.queue=1"],
        ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1"],
    ],
    ids=["basic", "joblib", "submitit", "queue", "optuna"],
)
def test_a_workspace_below_hangul_and_spaces_sweeps_by_every_way(tmp_path, monkeypatch, way):
    """And by whatever else a folder may be called."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    chain = ShortChain(tmp_path / "내 문서 [새=1,2] (사본) $HOME 'a'" / "그래프트 작업")
    grid = ["sft.lora.r=choice(2,4)"] if "optuna" in str(way) else ["sft.lora.r=2,4"]
    output = chain.sweep(*grid, *way)
    assert set(statuses(chain)) <= {"done", "kept"}, output  # a search may ask for one point twice
    (table,) = chain.directory.glob("multirun/sweep/*/table.csv")
    assert "sft.lora.r" in table.read_text(encoding="utf-8")
    assert "is the workspace now" in chain.run(sys.executable, "-m", "tools.promote")
    chain.commit("promoted")
    assert "up to date" in chain.run("dvc", "status")


def test_ray_runs_points(chain):
    pytest.importorskip("ray", reason="graft[ray] is not installed")
    chain.sweep(*GRID, "hydra/launcher=ray", RAY_AUTH_MODE="disabled")
    assert statuses(chain) == {"done": 4}


def test_an_unknown_metric_names_those_there_are(chain):
    output = chain.sweep("sft.lora.r=4", "sweep.metric=dpo.seen.exact", fails=True)
    assert "sweep.metric: found 'dpo.seen.exact', needed one of dpo.control.perplexity, dpo.seen.key_exact" in output


def test_promote_commit_and_nothing_runs(chain):
    chain.sweep("sft.lora.r=20,4,19")
    chain.put("params.yaml", (chain.directory / "params.yaml").read_text(encoding="utf-8") + "# 메모\n")
    refusal = chain.run("python", "-m", "tools.promote", fails=True)
    assert "promote: the workspace has uncommitted changes" in refusal and "params.yaml" in refusal
    chain.run("git", "checkout", "--quiet", ".")
    output = chain.run("python", "-m", "tools.promote")
    assert "NOT distinguishable from 1 of the other 2" in output and "sft.lora.r=19: 0.19 [0.16, 0.22]" in output
    chain.commit("the best rank")
    assert "Data and pipelines are up to date" in chain.run("dvc", "repro")
    chain.run("python", "-m", "tools.promote", "sft.lora.r=4-")
    chain.commit("the smallest rank")
    difference = chain.run("dvc", "metrics", "diff", "HEAD~1")
    assert "-0.16" in difference
    unknown = chain.run("python", "-m", "tools.promote", "sft.lora.r=7", fails=True)
    assert "found 0 points that begin so" in unknown and "sft.lora.r=20-" in unknown


def test_an_interrupted_sweep_leaves_nothing_at_work(chain):
    command = [sys.executable, "-m", "tools.sweep", "--multirun", "sft.lora.r=2,4"]
    running = subprocess.Popen(
        command,
        cwd=chain.directory,
        env=chain.environment(CHAIN_SECONDS="4"),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
    )
    while not chain.events("sft"):
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    assert "sweep: stopped by Ctrl-C; the same command again keeps" in running.communicate()[1]
    assert running.returncode == 130 and not list(chain.directory.glob(".dvc/tmp/points/*"))
    time.sleep(5)
    assert not chain.events("sft", "end")


@pytest.mark.soak
@pytest.mark.parametrize("time", [1, 2, 3])
def test_twelve_points_at_once_lose_none(chain, time):
    """The shorter a chain, the more of its points meet in Git and in the cache."""
    chain.sweep("sft.lora.r=2,4,6", "sft.learning_rate=0.1,0.2,0.3,0.4",
                "hydra/launcher=joblib", "hydra.launcher.n_jobs=4")  # fmt: skip
    assert statuses(chain) == {"done": 12}
    assert len(chain.events("sft")) == 12 and len(chain.events("prepare_base")) == 1
