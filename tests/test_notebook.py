"""The notebook for Colab: clean as it is committed, in both languages, and it runs from the top to the end."""

import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, Project
from nbclient import NotebookClient

from tests.pdf_files import write_faq
from tools.graft import FORWARDED

NOTEBOOK = ROOT / "notebooks/graft_colab.ipynb"
COMMANDS = {*FORWARDED, "run", "report"}


def cells(kind: str) -> list[dict]:
    return [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == kind]


def test_it_is_valid_and_holds_no_output():
    raw = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    nbformat.validate(raw)
    assert (raw["nbformat"], raw["nbformat_minor"]) == (4, 5)
    assert raw["metadata"]["accelerator"] == "GPU" and raw["metadata"]["colab"]["gpuType"] == "T4"
    for cell in cells("code"):
        assert cell.outputs == [] and cell.execution_count is None, cell.id


def test_every_text_is_in_korean_and_in_english():
    for cell in cells("markdown"):
        korean, line, english = cell.source.partition("\n---\n")
        assert line, cell.id
        assert len(re.findall(r"[가-힣]", korean)) > 30, cell.id
        assert len(re.findall(r"[a-zA-Z]{2,}", english)) > 20 and not re.search(r"[가-힣]{8}", english), cell.id


def test_its_commands_and_what_it_chooses_exist():
    text = "\n".join(cell.source for cell in [*cells("code"), *cells("markdown")])
    assert set(re.findall(r"!graft ([\w-]+)", text)) <= COMMANDS
    for group, choice in re.findall(r"\b(model|data|recipe|profile)=([\w.-]+\w)", text):
        assert (ROOT / "conf" / group / f"{choice}.yaml").is_file(), f"{group}={choice}"


def with_settings(**settings: object) -> nbformat.NotebookNode:
    """The notebook with other values in its cell of parameters."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    for name, value in settings.items():
        assert re.search(rf"^{name} = ", parameters.source, flags=re.M), name
        parameters.source += f"\n{name} = {value!r}"
    return notebook


def outputs(notebook: nbformat.NotebookNode, ident: str) -> str:
    """What a cell showed, as one text."""
    (cell,) = (cell for cell in notebook.cells if cell.id == ident)
    return "".join(
        output.get("text", "") or "".join(output.get("data", {}).values()) for output in cell.outputs
    )  # fmt: skip


@pytest.mark.slow
def test_it_runs_from_the_top_to_the_end_on_a_tiny_model(tmp_path: Path, tiny_model: Path, monkeypatch) -> None:
    """With the repository's pins read and resolved by pip, which changes nothing here (PIP_DRY_RUN)."""
    project = Project(tmp_path / "graft", tiny_model)
    for name in ("pyproject.toml", "constraints.txt", "README.md", "Makefile"):
        shutil.copyfile(ROOT / name, project.directory / name)
    (project.directory / "notebooks").mkdir()
    write_faq(project.directory / "data/raw/pdf_qa/own/faq.pdf")
    project.commit("a clone as Colab has it")
    for name, value in {**project.environment(), "PIP_DRY_RUN": "1", "PIP_NO_BUILD_ISOLATION": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", os.environ["PATH"].partition(os.pathsep)[2])  # as where no environment is activated
    question = "달여울시민청의 주소는 어디인가요?"
    notebook = with_settings(CHOICES="profile=cpu", QUESTIONS=[question, "Tell me something."])
    client = NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": project.directory / "notebooks"}}
    )
    client.execute()
    said = {cell.id: outputs(notebook, cell.id) for cell in notebook.cells if cell.cell_type == "code"}
    assert "Traceback" not in "".join(said.values()), said
    assert str(project.directory) in said["code"]
    assert "Running stage 'sft'" in said["run"] and "Running stage 'evaluate'" in said["run"]
    assert "key_exact" in said["scores"]
    assert "iframe" in said["report"]
    assert f"나> {question}" in said["chat"] and said["chat"].count("dpo> ") == 2
    assert "faq.pdf" in said["prepare-own"] and "# " in said["prepare-own"]
    assert "Running stage 'sft'" in said["run-own"]
    assert (project.directory / "outputs/graft-model.zip").stat().st_size > 10_000
    assert "Modelfile" in said["keep"]
