"""What a point is known by, and what its log says about its end."""

from pathlib import Path

import pytest
from conftest import ROOT

from stages.lib.every_stage.errors import UserError
from tools.lib import points
from tools.lib.points import Point


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_inputs_are_what_the_chain_starts_from():
    paths = points.input_paths()
    assert {"data/raw/pdf_qa", "stages/sft.py", "stages/lib/training", "conf/chat_template"} <= set(paths)
    assert not {
        "models/base",
        "models/base/lineage.json",
        "data/prepared/pdf_qa",
        "params.yaml",
        "conf",
        "stages/lib/schema/training.py",
    } & set(paths)
    assert all(Path(path).exists() for path in paths)


def test_a_changed_input_is_another_point_and_other_words_for_a_value_are_not():
    point = Point(["sft.lora.r=4"], {"sft": {"lora": {"r": 4}}}, "inputs")
    assert Point(["+sft.lora.r=04"], {"sft": {"lora": {"r": 4}}}, "inputs").digest == point.digest
    assert Point(["sft.lora.r=4"], {"sft": {"lora": {"r": 4}}}, "other").digest != point.digest
    assert Point(["sft.lora.r=4"], {"sft": {"lora": {"r": 8}}}, "inputs").digest != point.digest


def test_fingerprint_follows_the_bytes_of_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("dvc.yaml").write_text("stages: {a: {cmd: a, deps: [data, code.py], outs: [out]}, b: {cmd: b, deps: [out]}}")
    for name in ("data/x", "code.py"):
        Path(name).write_text("1")
    first = points.fingerprint()
    Path("out").write_text("made by a")
    assert points.fingerprint() == first
    Path("data/__pycache__").mkdir()
    Path("data/__pycache__/x.pyc").write_text("bytecode, which Python writes while a point runs")
    assert points.fingerprint() == first
    Path("data/x").write_text("2")
    second = points.fingerprint()
    Path("data/y").write_text("new")
    assert len({first, second, points.fingerprint()}) == 3
    Path("code.py").unlink()
    with pytest.raises(UserError, match=r"code\.py: no such file or folder"):
        points.fingerprint()


def test_bytecode_is_no_untracked_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("code/__pycache__").mkdir(parents=True)
    Path("dvc.yaml").write_text("stages: {a: {cmd: a, deps: [code], outs: [out]}}")
    for name in ("code/new.py", "code/__pycache__/new.pyc"):
        Path(name).write_text("1")
    points.git("init", "--quiet")
    assert points.untracked_inputs() == ["code/new.py"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["sft.lora.r=4", "sft.learning_rate=1e-4"],
        ['evaluate.demo_question="주소는 어디인가요?"'],
        ["a=..b~^:\\x"],
        [],
        ["r=" + "9" * 300],
    ],
)
def test_names_are_references_for_git(overrides):
    name = Point(overrides, {}, "").name
    points.git("check-ref-format", f"refs/exps/00/00/{name}")
    assert len(f"{name}.lock".encode()) < 256 and points.DIGEST.search(name)


def test_hangul_stays_in_names():
    assert "주소는" in Point(["evaluate.demo_question=주소는 어디?"], {}, "").name


def test_overrides_reach_keys_that_params_yaml_does_not_spell_out():
    point = Point(["sft.lora.r=4", "+dpo.beta=0.2", "++sft.seed=1"], {}, "")
    assert point.parameters()[1::2] == ["++sft.lora.r=4", "++dpo.beta=0.2", "++sft.seed=1"]


def test_a_failure_is_the_stages_own_words():
    log = Path("dvc.log")
    text = "Running stage 'sft':\n> python -m stages.sft\nsft: no training rows: 3\nraise it\n"
    text += "ERROR: failed to reproduce 'sft': failed to run: x\n"
    assert points.failure(text, log) == "sft: no training rows: 3; raise it (all of it: dvc.log)"
    crash = "Traceback (most recent call last):\n  x\nMemoryError: 40 GiB\n"
    crash += "ERROR: failed to reproduce 'dpo': failed to run: x\n"
    assert points.failure(crash, log) == "MemoryError: 40 GiB (all of it: dvc.log)"
    assert points.failure("ERROR: Unable to acquire lock\n", log) == "Unable to acquire lock (all of it: dvc.log)"
    assert points.failure("", log) == "DVC ended without a word (all of it: dvc.log)"


def test_a_stage_that_was_killed_is_named_with_its_signal():
    text = "ERROR: failed to reproduce 'sft': failed to run: python -m stages.sft, exited with -9\n"
    wanted = "sft was ended by SIGKILL: the machine was out of memory, or somebody ended it (all of it: dvc.log)"
    assert points.failure(text, Path("dvc.log")) == wanted


def test_an_experiment_with_other_values_is_refused():
    point = Point(["sft.lora.r=4"], {"sft": {"lora": {"r": 4}}, "dpo": {"beta": 0.1}}, "")
    points.refuse_other_parameters(point, {"sft": {"lora": {"r": 4}}, "dpo": {"beta": 0.1}, "choices": {}})
    with pytest.raises(UserError, match="other values in sft than sft.lora.r=4 asks for"):
        points.refuse_other_parameters(point, {"sft": {"lora": {"r": 8}}, "dpo": {"beta": 0.1}})
