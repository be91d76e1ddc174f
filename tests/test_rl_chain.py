"""reward, rl and merge-rl in one `dvc repro` with everything before and after them."""

import json

import pytest
import yaml

from stages.lib.every_stage.records import read_jsonl

pytestmark = pytest.mark.slow

SETTINGS = {
    "reward": {"enabled": True, "max_steps": 2, "batch_size": 4, "max_length": 1024},
    "rl": {
        "enabled": True,
        "reward": "model",  # random weights state no facts
        "max_steps": 2,
        "batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 6,
        "max_length": 1024,
    },
}


def test_switched_on_they_run_and_are_scored_beside_the_others(project):
    path = project.directory / "params.yaml"
    before = path.read_text(encoding="utf-8")
    assert json.loads((project.directory / "models/rl/lineage.json").read_text(encoding="utf-8")) == {"kind": "off"}
    path.write_text(yaml.safe_dump({**yaml.safe_load(before), **SETTINGS}, sort_keys=False), encoding="utf-8")
    try:
        ran = project.repro()
        assert ran[:5] == ["config", "reward", "rl", "merge-rl", "evaluate"]
        assert not {"sft", "dpo", "preference"} & set(ran)
        assert "rl" in json.loads((project.directory / "metrics/eval.json").read_text(encoding="utf-8"))
        assert "rl" in (project.directory / "metrics/eval_report.md").read_text(encoding="utf-8")
        lines = list(read_jsonl(project.directory / "metrics/rl_samples.jsonl"))
        assert all(len(line["before"]) == len(line["after"]) == 2 for line in lines)
        assert json.loads((project.directory / "metrics/rl.json").read_text(encoding="utf-8"))["step0_kl"] < 1e-3
        assert project.repro() == []
    finally:
        path.write_text(before, encoding="utf-8")
        project.repro()
