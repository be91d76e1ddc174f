"""The README's commands work as printed, one after another, in a fresh shell of a repository whose chain has run."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable

import pytest
from conftest import ROOT, Project

from tests.hub_server import Hub, serving

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("readme")]
BLOCK = re.compile(r"^```\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TOKEN = "hf_write_0123456789"


def commands() -> list[str]:
    """The lines of code blocks that are commands, without what is said of them; make's two are CI's and the user's."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line.partition(" # ")[0].strip() for block in BLOCK.findall(text) for line in block.splitlines()]
    return [line for line in lines if line.split()[:1] and line.split()[0] in ("graft", "dvc", "python", "git")]


def test_the_readme_has_the_commands_that_are_tried_here() -> None:
    found = commands()
    assert len(found) >= 14
    assert {line.split()[1] for line in found if line.startswith("graft ")} >= {
        "run", "sweep", "promote", "compare", "doctor", "chat", "arena", "push"
    }  # fmt: skip


@pytest.fixture(scope="module")
def fresh(tiny_model, tmp_path_factory) -> Project:
    """After `make repro` and a commit of its scores."""
    project = Project(tmp_path_factory.mktemp("readme"), tiny_model)
    for name in ("pyproject.toml", "constraints.txt"):  # graft doctor reads them
        shutil.copyfile(ROOT / name, project.directory / name)
    params = project.directory / "params.yaml"
    path = f"path: {tiny_model}"
    origin = "origin: {name: org/tiny, license: apache-2.0}"
    text = params.read_text(encoding="utf-8").replace(path, f"{path}, {origin}")
    as_shipped = "preference: {enabled: null, algorithm: null}\n"  # what `dvc exp run -S` can set without a +
    params.write_text(text + as_shipped, encoding="utf-8")
    project.repro()
    project.commit("scores")
    return project


def test_every_command_works_as_printed(fresh: Project) -> None:
    special: dict[str, Callable[[Project, list[str]], object]] = {
        "graft chat": talks,
        "graft arena": serves,
        "graft push": pushes,
        "graft promote": committed,  # it refuses to replace what isn't, and says so
        "graft compare": committed,
        "dvc metrics": committed,
    }
    for line in commands():
        words = shlex.split(line)
        special.get(" ".join(words[:2]), run)(fresh, words)


def run(project: Project, words: list[str]) -> None:
    project.command(*words)


def committed(project: Project, words: list[str]) -> None:
    """Run it on a workspace whose results are committed."""
    project.commit("results")
    project.command(*words)


def talks(project: Project, words: list[str]) -> None:
    done = subprocess.run(
        words, cwd=project.directory, env=project.environment(), input="안녕하세요?\n", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def serves(project: Project, words: list[str]) -> None:
    command = [*words, "--port", "0"]  # the usual one may be taken here
    with subprocess.Popen(
        command, cwd=project.directory, env=project.environment(), stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        try:
            assert any("http://127.0.0.1:" in line for line in server.stdout)
        finally:
            server.terminate()


def pushes(project: Project, words: list[str]) -> None:
    with serving(Hub({}, writer=TOKEN)) as hub:
        project.command(*words, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="0", HF_TOKEN=TOKEN)
        assert list(hub.repositories) == ["models/OWNER/NAME"]
