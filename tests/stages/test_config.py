"""The config stage: every wrong value is refused before anything costly, with its full key."""

import shutil
import subprocess
import sys
import time

import pytest
import yaml
from conftest import ROOT


@pytest.fixture
def place(tmp_path):
    """A directory with the shipped conf/ and params.yaml, and no lock."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    return tmp_path


def run_config(place, *overrides):
    done = subprocess.run(
        [sys.executable, "-m", "stages.config", *overrides],
        cwd=place,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dpo.betta=0.2", ["Key 'betta' not in 'Dpo'", "dpo.betta"]),
        ("sft.lora.r=sixteen", ["'sixteen'", "Integer", "sft.lora.r"]),
        ("sft.quantization=fp4", ["nf4, int8, none", "sft.quantization"]),
        ("model=gpt5", ["Could not find 'model/gpt5'", "smollm2-135m", "tinyllama-1.1b"]),
        ("sft.learning_rate=???", ["sft.learning_rate: no value"]),
        ("sft.learning_rate=-1", ["sft.learning_rate: found -1"]),
        ("dpo.beta=0", ["dpo.beta: found 0"]),
        ("sft.lora.r=0", ["sft.lora.r: found 0"]),
        ("sft.lora.target_modules=[]", ["sft.lora.target_modules"]),
        ("sft.micro_batch_size=-3", ["sft.micro_batch_size: found -3"]),
        ("merge.dtype=float32", ["merge.dtype: found 'float32'"]),
        ("sft.method=full", ["sft.quantization: found 'nf4'", "sft.method=full"]),
        ("sft.overlong=truncate", ["sft.overlong", "cut_turns"]),
        ("dpo.quantization=nf4", ["merge.base: found 'dequantized'", "rounds back"]),
        ("sft.quantization=none", ["merge.base: found 'dequantized'", "original weights"]),
        ("dpo.method=full", ["dpo.method"]),
        ("sft.mix={ultrachat:0,pdf_qa:0}", ["sft.mix"]),
        ("prepare_base.pad_token='<|im_end|>'", ["prepare_base.pad_token", "never stops"]),
        ("prepare_base.source=hub", ["prepare_base.id", "source=hub"]),
        ("prepare_preferences.held_out_pairs=1", ["prepare_preferences.held_out_pairs"]),
        ("prepare_pdf_qa.files=[/srv/faq.jsonl]", ["prepare_pdf_qa.files: found /srv/faq.jsonl", "data/raw/pdf_qa"]),
        ("prepare_pdf_qa.pdfs=[data/raw/pdf_qa/../guide.pdf]", ["prepare_pdf_qa.pdfs: found", "data/raw/pdf_qa:"]),
        ("prepare_ultrachat.train.path=chats.jsonl", ["prepare_ultrachat.train.path: found chats.jsonl", "Move it"]),
        ("prepare_preferences.rows.path=a.jsonl", ["prepare_preferences.rows.path: found", "python -m stages.prepare"]),
    ],
)
def test_refuses(place, override, said):
    started = time.time()
    code, output = run_config(place, override)
    assert code == 1
    for words in said:
        assert words in output, output
    assert "Traceback" not in output
    assert not (place / "params.lock.yaml").exists()
    assert time.time() - started < 20  # it composes, it loads no torch: test_importing_stages_and_tools_is_cheap


def test_names_all_problems_at_once(place):
    _, output = run_config(place, "dpo.beta=-1", "sft.learning_rate=???")
    assert "dpo.beta" in output
    assert "sft.learning_rate" in output


def test_takes_any_file_in_the_watched_folder(place):
    code, output = run_config(place, f"prepare_pdf_qa.files=[data/raw/pdf_qa/a/b.jsonl,{place}/data/raw/pdf_qa/c]")
    assert code == 0, output


def test_same_question_same_bytes(place):
    assert run_config(place)[0] == 0
    first = (place / "params.lock.yaml").read_bytes()
    assert run_config(place)[0] == 0
    assert (place / "params.lock.yaml").read_bytes() == first


def test_a_knob_beats_its_group_and_says_so(place):
    params = place / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("  beta: null", "  beta: 0.3"), encoding="utf-8")
    code, output = run_config(place)
    assert code == 0
    assert "params.yaml sets dpo.beta = 0.3; without it the groups say 0.1" in output
    assert yaml.safe_load((place / "params.lock.yaml").read_text(encoding="utf-8"))["dpo"]["beta"] == 0.3


def test_refuses_interpolations_in_params(place):
    with (place / "params.yaml").open("a", encoding="utf-8") as file:
        file.write("evaluate: {seed: '${seed}'}\n")
    code, output = run_config(place)
    assert code == 1
    assert "interpolation" in output
