"""Sweeps of the real chain on the tiny model: the same by every way, and no point lost when many run at once."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Project

pytestmark = [pytest.mark.slow, pytest.mark.soak]
GRID = ["sft.lora.r=2,4", "sft.learning_rate=1e-3,5e-3"]
WAYS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit": ["hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=30"],
    "queue": ["sweep.queue=2"],
}
Scores = dict[str, str]


def sweep(project: Project, *words: str) -> list[dict[str, Any]]:
    """Run a sweep; its rows, after checks that hold for every one."""
    project.command("python", "-m", "tools.sweep", "--multirun", *words)
    latest = max(project.directory.glob("multirun/sweep/*/points.json"))
    rows = json.loads(latest.read_text(encoding="utf-8"))["rows"]
    for row in rows:
        assert row["status"] == "done" and row["score"] is not None and row["seconds"] > 0, row
        lock = yaml.safe_load(shown(project, row, "params.lock.yaml"))
        for key, value in row["overrides"].items():
            found = lock
            for name in key.split("."):
                found = found[name]
            assert found == float(value)
    logs = [path.read_text(encoding="utf-8") for path in project.directory.glob("multirun/points/*/dvc.log")]
    assert len(logs) == len(rows) and not any("Running stage 'prepare-" in log for log in logs)
    (data,) = project.directory.glob("multirun/points/data-*.log")
    assert data.read_text(encoding="utf-8").count("Running stage 'prepare-") == 4
    assert project.command("git", "status", "--porcelain") == project.command("git", "stash", "list") == ""
    return rows


def shown(project: Project, row: dict[str, Any], path: str) -> str:
    """A file of a point's experiment."""
    (reference,) = [
        line for line in project.command("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
        if line.endswith(row["name"])
    ]  # fmt: skip
    return project.command("git", "show", f"{reference}:{path}")


@pytest.fixture(scope="module")
def by_way() -> dict[str, Scores]:
    return {}


@pytest.mark.parametrize("way", WAYS)
def test_two_by_two_gives_the_same_by_every_way(way, by_way, tiny_model, tmp_path):
    project = Project(tmp_path, tiny_model)
    rows = sweep(project, *GRID, *WAYS[way])
    assert len(rows) == 4
    by_way[way] = {json.dumps(row["overrides"]): shown(project, row, "metrics/eval.json") for row in rows}
    assert len(set(by_way[way].values())) == 4
    assert by_way[way] == next(iter(by_way.values()))
    if way == "joblib":
        promoted_is_up_to_date(project)


def promoted_is_up_to_date(project: Project) -> None:
    """promote, git commit, dvc repro: nothing runs, and DVC shows what it changed."""
    output = project.command("python", "-m", "tools.promote", "--sweep", str(only(project, "multirun/sweep/*")))
    assert "is the workspace now" in output
    project.commit("promoted")
    assert project.repro() == []
    project.command("python", "-m", "tools.promote", "sft.lora.r=4,sft.learning_rate=0.005")
    project.commit("another")
    assert project.repro() == []
    assert "perplexity" in project.command("dvc", "metrics", "diff", "HEAD~1")


def only(project: Project, pattern: str) -> Path:
    (found,) = project.directory.glob(pattern)
    return found


@pytest.mark.parametrize("time", [1, 2, 3])
def test_twelve_points_at_once_lose_none(time, tiny_model, tmp_path):
    project = Project(tmp_path, tiny_model)
    rows = sweep(project, "sft.lora.r=2,4", "dpo.beta=0.1,0.2,0.3,0.4,0.5,0.6",
                 "hydra/launcher=joblib", "hydra.launcher.n_jobs=4")  # fmt: skip
    assert len(rows) == 12
