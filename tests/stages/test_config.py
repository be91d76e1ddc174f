"""The config stage: every wrong value is refused before anything costly, with its full key."""

import copy
import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stages.config import config
from stages.lib.configuration import compose_config, typed_sections
from stages.lib.errors import UserError
from stages.lib.schema.config import Config


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
        ("++prepare_pdf_qa.columns={faq.csv:{a:reply}}", ["columns.faq.csv.a: found 'reply', needed one of"]),
        ("+prepare_preferences.rows.columns={hint:none}", ["rows.columns.hint: found 'none'", "ignore"]),
        ("prepare_ultrachat.train.path=chats.jsonl", ["prepare_ultrachat.train.path: found chats.jsonl", "Move it"]),
        ("prepare_preferences.rows.path=a.jsonl", ["prepare_preferences.rows.path: found", "python -m stages.prepare"]),
    ],
)
def test_refuses(place, monkeypatch, override, said):
    monkeypatch.chdir(place)
    with pytest.raises(UserError) as refused:
        config([override])
    for words in said:
        assert words in str(refused.value)
    assert not (place / "params.lock.yaml").exists()


def test_a_refusal_is_a_message_and_a_status(place):
    code, output = run_config(place, "dpo.betta=0.2")
    assert code == 1
    assert output.startswith("config: ")
    assert "dpo.betta" in output
    assert "Traceback" not in output


def test_names_all_problems_at_once(place):
    _, output = run_config(place, "dpo.beta=-1", "sft.learning_rate=???")
    assert "dpo.beta" in output
    assert "sft.learning_rate" in output


def test_takes_any_file_in_the_watched_folder(place):
    code, output = run_config(place, f"prepare_pdf_qa.files=[data/raw/pdf_qa/a/b.jsonl,{place}/data/raw/pdf_qa/c]")
    assert code == 0, output


def test_a_column_may_be_called_path(place):
    with (place / "params.yaml").open("a", encoding="utf-8") as file:
        file.write("prepare_pdf_qa: {columns: {faq.csv: {path: ignore, 문의: question}}}\n")
    code, output = run_config(place)
    assert code == 0, output
    columns = yaml.safe_load((place / "params.lock.yaml").read_text(encoding="utf-8"))["prepare_pdf_qa"]["columns"]
    assert columns == {"faq.csv": {"path": "ignore", "문의": "question"}}


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


WRONG = {
    "method": "qlora",
    "engine": "axolotl",
    "quantization": "fp4",
    "dtype": "fp8",
    "lora.r": "0",
    "lora.lora_alpha": "0",
    "lora.lora_dropout": "1",
    "lora.bias": "some",
    "lora.target_modules": "[]",
    "learning_rate": "0",
    "lr_scheduler_type": "cosin",
    "warmup_steps": "-1",
    "num_train_epochs": "0",
    "max_steps": "0",
    "batch_size": "0",
    "max_length": "1",
    "optim": "adam",
    "adam_beta2": "1",
    "weight_decay": "-0.1",
    "max_grad_norm": "0",
    "logging_steps": "0",
    "seed": "-1",
    "micro_batch_size": "-1",
    "gradient_checkpointing": "sometimes",
    "torch_compile": "sometimes",
    "cuda_graphs": "sometimes",
    "dequantize_once": "sometimes",
    "padding_free": "sometimes",
    "distributed": "everywhere",
    "processes": "-1",
    "threads": "-1",
    "checkpoint_minutes": "-1",
    "report_to": "[comet]",
    "mix": "{ultrachat: 0, pdf_qa: 0}",
    "mix.ultrachat": "-1",
    "mix.pdf_qa": "twice",
    "loss_on": "question",
    "overlong": "drop",
    "beta": "0",
    "loss_type": "[sigmoidal]",
    "loss_weights": "[1, 2]",
    "label_smoothing": "0.5",
    "precompute_ref_log_probs": "often",
    "enabled": "perhaps",
    "base": "quantized",
    "probes": "0",
    "max_kl": "0",
    "max_new_tokens": "0",
    "batch_tokens": "-1",
    "continuous_batching": "perhaps",
    "bootstrap_resamples": "0",
    "backend": "oracle",
    "pairs": "[dpo:dpo]",
    "questions": "0",
    "limit": "-1",
    "allow_code": "perhaps",
}
"""A value that nothing can use, for each key of a section that trains, merges or scores."""

TRAINED = ("sft", "dpo", "orpo", "merge", "merge_dpo", "merge_orpo")
SCORED = ("evaluate", "judge", "benchmark")
FREE = ("demo_question", "bertscore_model", "model", "endpoint", "tasks", "task_folder")
"""Keys of the latter that take any text; what it names is looked for when the stage runs."""

MERGED_DTYPE = "float32"  # a dtype to train in and none to merge in


def keys_of(kind, prefix=""):
    """The keys of a section by its dataclass, those of nested ones dotted."""
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            yield from keys_of(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


@pytest.fixture(scope="module")
def composed():
    """The shipped configuration, composed once."""
    here = Path.cwd()
    os.chdir(ROOT)
    try:
        return compose_config({}, {})
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        (section, key)
        for section in (*TRAINED, *SCORED)
        for key in keys_of(Config.__annotations__[section])
        if section in TRAINED or key not in FREE
    ],
)
def test_a_wrong_value_of_any_key_is_refused_by_its_name(composed, section, key):
    value = MERGED_DTYPE if (section.startswith("merge"), key) == (True, "dtype") else WRONG[key]
    changed = copy.deepcopy(composed)
    with pytest.raises(
        (UserError, OmegaConfBaseException)
    ) as refused:  # compose_config turns the second into the first
        OmegaConf.update(changed, f"{section}.{key}", yaml.safe_load(value))
        typed_sections(changed, only=section)
    named = key.split(".")[0] if key.startswith("mix") else key
    assert f"{section}.{named}" in str(refused.value)


@pytest.mark.parametrize("section", TRAINED)
def test_a_word_where_a_number_belongs_is_refused_by_its_key(monkeypatch, section):
    monkeypatch.chdir(ROOT)
    key = "max_kl" if section.startswith("merge") else "learning_rate"
    with pytest.raises(UserError, match=rf"'small'.*full_key: {section}\.{key}"):
        compose_config({}, {}, [f"{section}.{key}=small"])
