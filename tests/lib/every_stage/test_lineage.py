"""A model directory whose files are not what its stage wrote is refused, with the commands that bring it back."""

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import flip_a_bit, tiny_training

from stages.dpo import dpo
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import FILE, OFF, file_sha256, read_lineage, refuse_damaged, write_lineage
from stages.lib.schema.training import Dpo, Preference, Sft
from stages.preference import preference
from stages.sft import sft
from tools.export import export
from tools.lib.chat_models import ChatModel


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    (directory / "sub").mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(os.urandom(5000))
    (directory / "config.json").write_text('{"a": 1}', encoding="utf-8")
    (directory / "sub/more.bin").write_bytes(b"x" * 100)
    write_lineage(directory, {"kind": "base", "rows": {"kept": 12}})
    return directory


def test_thirty_flipped_bits_are_noticed_thirty_times(model):
    chance = random.Random(17)
    files = sorted(path for path in model.rglob("*") if path.is_file())
    for _ in range(30):
        path = chance.choice(files)
        place, bit = chance.randrange(path.stat().st_size), chance.randrange(8)
        flip_a_bit(path, place, bit)
        with pytest.raises(UserError, match="what its stage wrote|what was written"):
            refuse_damaged(model)
        flip_a_bit(path, place, bit)
        assert refuse_damaged(model)["kind"] == "base"


def test_a_file_more_or_less_is_named(model):
    (model / "extra.safetensors").touch()
    (model / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json isn't .*; extra\.safetensors was not written by its stage"):
        refuse_damaged(model)


def test_a_lineage_without_its_checksum_is_no_lineage(model):
    (model / FILE).write_text('{"kind": "base"}', encoding="utf-8")
    with pytest.raises(UserError, match="needed its own checksum"):
        read_lineage(model)


def test_a_stage_that_is_off_says_only_that(tmp_path):
    write_lineage(tmp_path, OFF)
    assert refuse_damaged(tmp_path) == OFF


def test_a_large_file_is_hashed_once_and_again_when_it_is_another(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"a" * 2**20)
    first = file_sha256(path)
    flip_a_bit(path, 0)  # in place, at the same time: known already to this process
    assert file_sha256(path) == first
    os.utime(path)
    assert file_sha256(path) != first


def sft_reads(place: Path) -> None:
    sft(Sft(**tiny_training()), place)


def dpo_reads(place: Path) -> None:
    dpo(Dpo(**tiny_training(beta=0.5)), place)


def preference_reads(place: Path) -> None:
    preference(Preference(**tiny_training(enabled=True)), place)


def export_reads(place: Path) -> None:
    export("dpo", None)


def chat_and_arena_read(place: Path) -> None:
    ChatModel("dpo", Path("models/dpo-merged"))


READERS = {
    "base": [sft_reads, preference_reads],
    "sft-merged": [dpo_reads],
    "dpo-merged": [export_reads, chat_and_arena_read],
}


@pytest.mark.chain
@pytest.mark.parametrize(("name", "reads"), [(name, reads) for name in READERS for reads in READERS[name]])
@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_whatever_reads_a_model_refuses_a_flipped_bit(place, name, reads, file):
    directory = place / "models" / name
    base = (place / "models/base").resolve()
    directory.unlink(missing_ok=True)
    shutil.copytree(base, directory)
    flip_a_bit(directory / file, (directory / file).stat().st_size // 2)
    with pytest.raises(UserError, match=f"models/{name}: {file} isn't what its stage wrote"):
        reads(place)
    assert not list(place.glob("models/*/adapter_model.safetensors"))


@pytest.mark.slow
def test_the_commands_of_the_message_bring_the_model_back(project):
    """A flip in a file that is a hard link to DVC's cache: `dvc status` is clean, and the cache is damaged too."""
    project.command("dvc", "config", "cache.type", "hardlink")
    project.command("rm", "-r", "models/sft")
    project.command("dvc", "checkout", "models/sft")
    weights = project.directory / "models/sft/adapter_model.safetensors"
    wanted = file_sha256(weights)
    assert weights.stat().st_nlink > 1
    flip_a_bit(weights, 1000)
    project.command("dvc", "status", "sft")
    project.write("params.yaml", "beta: null", "beta: 0.3")  # anything that reruns later stages
    output = project.command("dvc", "repro", "--force", "--single-item", "merge", fails=True)
    assert "adapter_model.safetensors isn't what its stage wrote" in output
    (command,) = re.findall("To have it made again: (.*); dvc repro", output)
    subprocess.run(["sh", "-c", command], cwd=project.directory, env=project.environment(), check=True)
    project.repro()
    assert file_sha256(weights) == wanted
    project.command("git", "checkout", "--quiet", ".")
    project.repro()
