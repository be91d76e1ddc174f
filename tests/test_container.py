"""The container's files agree with each other and with the repository, and nothing private gets into the image.

Nothing is built here: docs/containers.md says what was tried, and how.
"""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from conftest import ROOT
from packaging.specifiers import SpecifierSet

from tools.doctor import packages

KNOWN = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "RUN", "USER", "VOLUME", "WORKDIR"}
"""The instructions that this parser knows."""


class Instruction(NamedTuple):
    name: str
    words: str


def instructions_of(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile: comments left out, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines()]


INSTRUCTIONS = instructions_of((ROOT / "Dockerfile").read_text(encoding="utf-8"))


def all_of(name: str) -> list[str]:
    return [each.words for each in INSTRUCTIONS if each.name == name]


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for words in all_of("ENV") for pair in shlex.split(words))  # type: ignore[misc]


def copied() -> list[str]:
    """What COPY takes out of the repository."""
    return [source for words in all_of("COPY") for source in words.split()[:-1] if not source.startswith("--")]


def position(pattern: str) -> int:
    """Where the one instruction is that a pattern matches."""
    (found,) = (number for number, each in enumerate(INSTRUCTIONS) if re.search(pattern, " ".join(each)))
    return found


def is_left_out(path: str, rules: list[str]) -> bool:
    """Whether .dockerignore's rules keep a path out of the image: the last rule that the path or a folder over it
    matches decides. `*` matches within a name, `**` any number of folders.
    """
    out = False
    for rule in rules:
        pattern = re.escape(rule.removeprefix("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(rf"{pattern}(?:/.*)?", path):
            out = not rule.startswith("!")
    return out


def rules() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_parser_joins_lines_and_leaves_comments_out():
    text = "# one\nFROM a:1\n\nRUN b \\\n  # between\n    && c \\\n    && d\nUSER e\n"
    assert instructions_of(text) == [("FROM", "a:1"), ("RUN", "b && c && d"), ("USER", "e")]


def test_every_instruction_is_known():
    assert {each.name for each in INSTRUCTIONS} - KNOWN == set()
    assert INSTRUCTIONS[0].name == "FROM"


def test_the_base_is_a_python_that_fits_by_digest():
    (base,) = all_of("FROM")
    found = re.fullmatch(r"python:(\d+\.\d+)-slim-\w+@sha256:[0-9a-f]{64}", base)
    assert found, base
    asked = re.search(r'^requires-python = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert asked and found[1] in SpecifierSet(asked[1])
    assert f"imagetools inspect {base.partition('@')[0]}\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_it_runs_as_a_user_that_it_has_made():
    (user,) = all_of("USER")
    uid, gid = map(int, user.split(":"))
    assert uid and gid
    assert re.search(rf"useradd --uid {uid} --user-group ", " ".join(all_of("RUN")))
    assert position("^USER ") < position("^ENTRYPOINT ")
    assert json.loads(all_of("ENTRYPOINT")[0]) == ["graft"]


def test_what_is_copied_is_there_and_is_let_through():
    assert {"constraints.txt", "pyproject.toml", "stages", "tools"} == set(copied())
    for source in copied():
        assert (ROOT / source).exists() and not is_left_out(source, rules()), source
    assert not is_left_out("stages/lib/every_stage/entry.py", rules())


PRIVATE = [".git/config", ".dvc/cache", ".dvc/config.local", ".env", ".venv/bin/python", "params.yaml"]
PRIVATE += ["data/raw/pdf_qa/own/계약서.pdf", "data/raw/votes/votes.jsonl", "data/prepared/pdf_qa/train.jsonl"]
PRIVATE += ["models/dpo-merged/model.safetensors", "metrics/predictions.jsonl", "outputs/tracking"]


def test_what_is_private_or_made_by_stages_is_left_out():
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    made = [f"{line.rstrip('/*')}/any" for line in ignored if "*." not in line and not line.startswith("!")]
    assert "data/prepared/any" in made
    within = ["stages/lib/__pycache__/entry.cpython-311.pyc", "tools/__pycache__/graft.cpython-311.pyc"]
    assert [path for path in [*PRIVATE, *made, *within] if not is_left_out(path, rules())] == []


def test_build_arguments_and_variables_are_declared_before_they_are_used():
    declared = {"PATH"}
    for each in INSTRUCTIONS:
        if each.name in ("RUN", "COPY", "ENV", "USER", "WORKDIR"):
            assert set(re.findall(r"\$\{?([A-Z_]+)", each.words)) <= declared, each
        if each.name == "ARG":
            declared.add(each.words.partition("=")[0])
        if each.name == "ENV":
            declared |= {pair.partition("=")[0] for pair in shlex.split(each.words)}
    assert all_of("ARG") == ["TORCH_INDEX="]
    assert "TORCH_INDEX ?=" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_packages_are_constraints_and_come_before_the_code():
    installs = [words for words in all_of("RUN") if "pip install" in words]
    converter = installs.pop()  # by its own hashes, in a folder of its own
    assert "--no-cache-dir --require-hashes --no-deps --target /opt/venv/converter" in converter
    assert len(installs) == 2
    for words in installs:
        assert words.count("pip install") == words.count("--constraint constraints.txt") == 1
        assert "--no-cache-dir" in words
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert position("--editable") < position("^COPY stages ") and position("--editable") < position("^COPY tools ")


def test_the_index_of_torch_is_said_to_pip_only_where_there_is_one(tmp_path):
    (line,) = (words for words in all_of("RUN") if words.endswith(" torch"))
    (tmp_path / "pip").write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    (tmp_path / "pip").chmod(0o755)
    command = line.partition(" && ")[2].replace("/opt/venv/bin/pip", str(tmp_path / "pip"))

    def given(index: str) -> list[str]:
        env = {**os.environ, "TORCH_INDEX": index}
        return subprocess.run(["sh", "-c", command], env=env, capture_output=True, text=True).stdout.split("|")[:-1]

    assert given("") == ["install", "--no-cache-dir", "--constraint", "constraints.txt", "--no-deps", "torch"]
    assert given("https://a b") == [*given("")[:-1], "--index-url", "https://a b", "torch"]


COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICE_KEYS = {"image", "build", "user", "init", "stop_grace_period", "shm_size", "security_opt", "environment"}
SERVICE_KEYS |= {"ports", "volumes", "profiles", "deploy"}


def test_compose_has_a_service_for_the_cpu_and_one_for_gpus():
    assert set(COMPOSE) == {"name", "services", "volumes"}
    services = COMPOSE["services"]
    assert {name: each.get("profiles") for name, each in services.items()} == {"graft": None, "gpu": ["gpu"]}
    assert "deploy" not in services["graft"]
    (device,) = services["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    images = {each["image"] for each in services.values()}
    assert len(images) == 2 and not any(image.endswith(":latest") or ":" not in image for image in images)


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_fits_the_image(name):
    service = COMPOSE["services"][name]
    assert set(service) <= SERVICE_KEYS
    assert set(service["build"]) == {"context", "args"} and service["build"]["context"] == "."
    assert set(service["build"]["args"]) == {"TORCH_INDEX"}
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    mounts = dict(reversed(mount.split(":")) for mount in service["volumes"])
    assert mounts.pop(all_of("WORKDIR")[0]) == "."
    assert sorted(mounts) == json.loads(all_of("VOLUME")[0])
    assert set(mounts.values()) == set(COMPOSE["volumes"])
    (uid, gid) = re.fullmatch(r"\$\{GRAFT_UID:-(\d+)\}:\$\{GRAFT_GID:-(\d+)\}", service["user"]).groups()
    assert f"{uid}:{gid}" == all_of("USER")[0]


def test_what_the_volumes_hold_is_where_the_image_says_and_anyone_may_write_there():
    env = environment()
    volumes = json.loads(all_of("VOLUME")[0])
    assert env["HF_HOME"] in volumes and f"{env['XDG_CACHE_HOME']}/graft" in volumes
    assert env["DVC_SITE_CACHE_DIR"] == f"{env['XDG_CACHE_HOME']}/graft/dvc"
    (opened,) = re.findall(r"chmod 1777 ([^&]+)", " ".join(all_of("RUN")))
    assert set(opened.split()) == {env["HOME"], *volumes}
    assert position("chmod 1777") < position("^VOLUME ")  # what is changed in a volume later is lost


def test_the_devcontainer_is_this_container():
    folder = ROOT / ".devcontainer"
    text = (folder / "devcontainer.json").read_text(encoding="utf-8")
    found = json.loads(text)
    allowed = {"name", "build", "init", "workspaceMount", "workspaceFolder", "mounts", "remoteUser"}
    assert set(found) <= allowed | {"postCreateCommand", "forwardPorts", "customizations"}
    build = found["build"]
    assert (folder / build["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (folder / build["context"]).resolve() == ROOT
    assert set(build["args"]) == {words.partition("=")[0] for words in all_of("ARG")}
    assert found["workspaceFolder"] == all_of("WORKDIR")[0]
    assert f",target={found['workspaceFolder']}," in found["workspaceMount"]
    mounts = [dict(pair.split("=") for pair in mount.split(",")) for mount in found["mounts"]]
    named = {f"{COMPOSE['name']}_{name}": target for name, target in volumes_of("graft").items()}
    assert {mount["source"]: mount["target"] for mount in mounts} == named  # checkpoints are there in both
    assert re.search(rf"--create-home {found['remoteUser']}\b", " ".join(all_of("RUN")))
    code = found["customizations"]["vscode"]
    assert {"iterative.dvc", "ms-python.python", "charliermarsh.ruff"} == set(code["extensions"])
    assert code["settings"]["python.defaultInterpreterPath"] == f"{environment()['GRAFT_VENV']}/bin/python"


def volumes_of(service: str) -> dict[str, str]:
    """Names of volumes and where they are mounted."""
    return {
        name: path
        for name, path in (each.split(":") for each in COMPOSE["services"][service]["volumes"])
        if name != "."
    }


def make(venv: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """make as in the container."""
    env = {**os.environ, "GRAFT_VENV": str(venv)}
    command = ["make", "-C", str(ROOT), "--no-print-directory", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_make_installs_nothing_in_the_container(tmp_path):
    (tmp_path / "constraints.txt").write_bytes((ROOT / "constraints.txt").read_bytes())
    done = make(tmp_path, "setup")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    said = make(tmp_path, "-n", "repro").stdout
    assert "pip" not in said and "-m venv" not in said and "activate" not in said
    assert "dvc repro\n" in said and "How to go on: graft chat" in said.replace("  ", " ")
    assert list(tmp_path.iterdir()) == [tmp_path / "constraints.txt"]


def test_an_image_of_other_packages_is_said(tmp_path):
    (tmp_path / "constraints.txt").write_text("torch==1.0\n")
    done = make(tmp_path, "setup")
    assert done.returncode and "needed those: docker compose build" in done.stdout


def test_programs_come_from_the_images_packages(tmp_path):
    (tmp_path / "more.mk").write_text("include Makefile\nprinted:\n\t@echo $$PATH\n")
    assert make(tmp_path, "-f", str(tmp_path / "more.mk"), "printed").stdout.startswith(f"{tmp_path}/bin:")


def test_doctor_names_what_installs_packages(tmp_path, monkeypatch):
    (tmp_path / "constraints.txt").write_text("pytest==0.1\n")
    monkeypatch.chdir(tmp_path)
    for venv, command in [("", "make setup"), ("/opt/venv", "docker compose build")]:
        monkeypatch.setenv("GRAFT_VENV", venv)
        assert packages().said.endswith(f" for 0.1; {command} puts them back")
