"""A workspace may be below folders called anything; tests/tools/test_sweep.py sweeps and promotes in one."""

import pytest
from conftest import Project


@pytest.mark.slow
def test_the_whole_chain_runs_below_hangul_and_spaces(tiny_model, tmp_path):
    """Every stage by `dvc repro`, each with its own libraries."""
    project = Project(tmp_path / "내 문서 [새=1,2] (사본) $HOME 'a'" / "그래프트 작업", tiny_model)
    assert {"prepare-base", "prepare-pdf-qa", "sft", "merge-dpo", "evaluate", "report"} <= set(project.repro())
    assert project.repro() == []
