"""A model goes to the Hub with its card, private unless asked, whole or not at all; against a server on loopback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from stages.lib.every_stage.lineage import write_lineage
from tests.hub_server import Hub, serving

TOKEN = "hf_write_0123456789"
CARD = """---
base_model: org/base
license: {license}
---

# tuned

- dpo: {sha256}
"""


@pytest.fixture
def hub():
    with serving(Hub({"models/org/taken": {}}, writer=TOKEN)) as running:
        yield running


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A tuned model with the terms of its base, its adapter and its card."""
    merged, adapter = tmp_path / "models/dpo-merged", tmp_path / "models/dpo"
    (merged / "license").mkdir(parents=True)
    adapter.mkdir()
    (merged / "model.safetensors").write_bytes(b"weights" * 1000)
    (merged / "config.json").write_text("{}")
    (merged / "license/NOTICE").write_text("Terms apply.")
    (adapter / "adapter_model.safetensors").write_bytes(b"adapter" * 100)
    write_lineage(merged, {"kind": "merged", "weights_sha256": "ab" * 32})
    write_lineage(adapter, {"kind": "adapter"})
    card(tmp_path)
    return tmp_path


def card(place: Path, license: str = "apache-2.0", sha256: str = "ab" * 32) -> None:
    (place / "models/card").mkdir(exist_ok=True)
    (place / "models/card/README.md").write_text(CARD.format(license=license, sha256=sha256), encoding="utf-8")


def push(place: Path, hub: Hub, *words: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(place / "hf")}
    env |= {"HF_HUB_OFFLINE": "0", "HF_TOKEN": token}
    return subprocess.run(
        [sys.executable, "-m", "tools.push", *words], cwd=place, env=env, capture_output=True, text=True
    )


def test_model_card_and_terms_go_in_one_commit_to_a_private_repository(place, hub):
    done = push(place, hub, "org/mine")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("/org/mine/commit/8049631c405ae6576f93f445c6b8166f76f5505a")
    files = hub.repositories["models/org/mine"]
    assert set(files) == {"README.md", "config.json", "lineage.json", "license/NOTICE", "model.safetensors"}
    assert files["model.safetensors"] == b"weights" * 1000
    assert b"license: apache-2.0" in files["README.md"]
    assert hub.private == {"org/mine"} and len(hub.commits) == 1
    assert TOKEN not in done.stdout + done.stderr
    assert push(place, hub, "org/mine").returncode == 0  # again, as after another run
    assert len(hub.commits) == 2


def test_public_and_with_the_adapter_where_that_is_asked(place, hub):
    assert push(place, hub, "org/open", "--public", "--adapter", "--message", "first").returncode == 0
    assert hub.private == set() and hub.commits == ["first"]
    files = hub.repositories["models/org/open"]
    assert files["adapter/adapter_model.safetensors"] == b"adapter" * 100


def changed(place: Path) -> None:
    (place / "models/dpo-merged/model.safetensors").write_bytes(b"others")


REFUSED = {
    "no card": (lambda place: (place / "models/card/README.md").unlink(), "needed the model's card: dvc repro report"),
    "other weights": (lambda place: card(place, sha256="cd" * 32), "is about other weights than models/dpo-merged"),
    "no licence": (lambda place: card(place, license="unknown"), "found no licence"),
    "changed weights": (changed, "model.safetensors isn't what its stage wrote"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_must_not_be_passed_on_is_refused_before_anything_is_made(place, hub, case):
    plant, said = REFUSED[case]
    plant(place)
    done = push(place, hub, "org/mine")
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
    assert set(hub.repositories) == {"models/org/taken"}


@pytest.mark.parametrize(
    ("words", "token", "said"),
    [
        (["org/mine"], "hf_read_0123456789", "org/mine: the Hub said 403: the token may not write there"),
        (["org/mine"], "", "found no token|the Hub said 401"),
        (["not a name"], TOKEN, "needed OWNER/NAME"),
        (["org/taken"], TOKEN, "org/taken is there and public; say --public if that is meant"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(place, hub, words, token, said):
    import re

    done = push(place, hub, *words, token=token)
    assert done.returncode == 1 and re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stderr and not hub.commits
    assert TOKEN not in done.stderr


def test_a_hub_that_is_not_there_is_one_sentence(place):
    done = push(place, Hub({}, endpoint="http://127.0.0.1:9"), "org/mine")
    assert done.returncode == 1 and "the Hub can't be reached: " in done.stderr and "Traceback" not in done.stderr
