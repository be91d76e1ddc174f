"""Unsloth as an engine: what it can't do is refused, what it could change is compared, what it decides is left to it.

Where it is installed, on a GPU, its losses are held against trl's.
"""

import csv
import importlib.util
import json
import os
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT, tiny_training
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

import stages.lib.schema.training
import stages.lib.training.decisions
import stages.lib.training.precision
import stages.lib.training.unsloth_engine
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import arguments_of
from stages.lib.hardware import Hardware, nvidia_gpu
from stages.lib.schema.choices import Choice, Distributed, Dtype, Engine, Method, Quantization
from stages.lib.schema.training import Dpo, KeepBase, Preference, Sft
from stages.lib.training.decisions import Attention
from stages.lib.training.plan import make_plan
from stages.lib.training.precision import resolve_precision
from stages.lib.training.run import TrainingRun
from stages.lib.training.trainer import save_adapter
from stages.lib.training.unsloth_engine import keep_one_adapter, refuse_changed_rows, start_engine
from stages.sft import LOG_COLUMNS, OUT, sft

INSTALLED = importlib.util.find_spec("unsloth") is not None
GIB = 2**30


@pytest.fixture
def installed(monkeypatch):
    """The configuration finds unsloth installed, whether it is or not; nothing imports it."""
    monkeypatch.setattr(stages.lib.schema.training, "find_spec", lambda name: name)


def unsloth_sft(**changes):
    return Sft(**tiny_training(engine=Engine.unsloth, quantization=Quantization.none, **changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": Method.full}, r"sft\.method: found 'full', needed lora"),
        ({"quantization": Quantization.int8}, r"sft\.quantization: found 'int8', needed auto, nf4 or none"),
        ({"dtype": Dtype.float32}, r"sft\.dtype: found 'float32', needed auto, bfloat16 or float16"),
        ({"torch_compile": Choice.always}, r"sft\.torch_compile: found 'always', needed auto"),
        ({"cuda_graphs": Choice.always}, r"sft\.cuda_graphs: found 'always', needed auto"),
        ({"distributed": Distributed.ddp}, r"sft\.distributed: found 'ddp', needed none"),
        ({"dequantize_once": Choice.never}, r"sft\.dequantize_once: found 'never', needed auto"),
    ],
)
def test_what_it_cannot_do_or_would_ignore_is_refused(installed, changes, said):
    with pytest.raises(UserError, match=said + r".*since sft\.engine=unsloth"):
        Sft(**tiny_training(engine=Engine.unsloth, **changes))
    Sft(**tiny_training(**changes, **({"quantization": Quantization.none} if "method" in changes else {})))


def test_a_base_that_is_kept_is_for_trl_alone(installed):
    with pytest.raises(UserError, match=r"sft\.engine: found 'unsloth', needed trl, since sft\.keep_base\.weight=1"):
        unsloth_sft(keep_base=KeepBase(weight=1.0))


def test_references_computed_beforehand_are_refused(installed):
    values = tiny_training(beta=0.1, engine=Engine.unsloth)
    Dpo(**values)
    with pytest.raises(UserError, match=r"dpo\.precompute_ref_log_probs: found True, needed false"):
        Dpo(**values, precompute_ref_log_probs=True)


@pytest.mark.parametrize(("section", "more"), [(Sft, {}), (Dpo, {"beta": 0.1}), (Preference, {})])
def test_without_the_packages_the_configuration_says_how_to_get_them(monkeypatch, section, more):
    monkeypatch.setattr(stages.lib.schema.training, "find_spec", lambda name: None)
    said = rf"{section.__name__.lower()}\.engine: found 'unsloth', .*unsloth and unsloth_zoo: make unsloth"
    with pytest.raises(UserError, match=said):
        section(**tiny_training(engine=Engine.unsloth, **more))


@pytest.mark.skipif(INSTALLED, reason="unsloth is installed")
def test_a_stage_on_a_machine_without_it_says_so_at_once(place):
    """The lock was written where it is installed."""
    arguments = arguments_of(Sft(**tiny_training())) | {"engine": "unsloth"}
    (place / "params.lock.yaml").write_text(yaml.safe_dump({"sft": arguments}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "stages.sft"],
        cwd=place,
        env={**os.environ, "DVC_STAGE": "sft", "DVC_ROOT": str(place), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("sft: sft.engine: found 'unsloth', needed trl, or the packages")
    assert "Traceback" not in done.stderr
    assert not (place / OUT).exists()


@pytest.mark.skipif(nvidia_gpu(), reason="there is a GPU")
def test_without_a_gpu_a_stage_ends_before_it_loads_anything(installed, place):
    with pytest.raises(UserError, match=r"sft\.engine: found 'unsloth' and no NVIDIA GPU; needed one"):
        sft(unsloth_sft(), place)
    assert "unsloth" not in sys.modules
    assert not (place / OUT).exists()


def test_without_a_driver_the_answer_takes_no_torch():
    """Which would take seconds."""
    code = (
        "import ctypes, sys\n"
        "def absent(name): raise OSError(name)\n"
        "ctypes.CDLL = absent\n"
        "from stages.lib.hardware import nvidia_gpu\n"
        "print(nvidia_gpu(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_one_process_runs_one_engine(installed, monkeypatch):
    """What it changes in transformers and trl stays changed, and it must change them before they are used."""
    assert start_engine("sft", Sft(**tiny_training()))["engine"] == "trl"
    monkeypatch.setattr(stages.lib.training.unsloth_engine, "nvidia_gpu", lambda: True)
    assert "transformers" in sys.modules
    with pytest.raises(
        UserError, match=r"sft\.engine: found .*transformers.* imported before unsloth; needed a process"
    ):
        start_engine("sft", unsloth_sft())
    monkeypatch.setitem(sys.modules, "unsloth", types.ModuleType("unsloth"))
    with pytest.raises(UserError, match=r"sft\.engine: found 'trl' after unsloth was imported.*needed a process"):
        start_engine("sft", Sft(**tiny_training()))


def test_rows_that_its_trainer_changed_are_refused():
    rows = [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [4, 5], "labels": [-100, 5]}]
    given = Dataset.from_list(rows)
    refuse_changed_rows(given, given)
    refuse_changed_rows(given, Dataset.from_list([{**row, "attention_mask": [1]} for row in rows]))
    with pytest.raises(UserError, match="holds 1 rows, needed 2"):
        refuse_changed_rows(given, given.select([0]))
    unmasked = [rows[0], {**rows[1], "labels": [4, 5]}]
    with pytest.raises(UserError, match="changed labels of row 1"):
        refuse_changed_rows(given, Dataset.from_list(unmasked))
    cut = [{"input_ids": [1, 2], "labels": [-100, 2]}, rows[1]]
    with pytest.raises(UserError, match="changed input_ids, labels of row 0"):
        refuse_changed_rows(given, Dataset.from_list(cut))


def test_the_copy_of_an_adapter_that_dpo_makes_is_not_published(tiny_base, tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_base), config)
    model.add_adapter("ref", config)
    save_adapter(model, tmp_path / "two")
    assert (tmp_path / "two/ref").is_dir()
    keep_one_adapter(model)
    save_adapter(model, tmp_path / "one")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), tmp_path / "one")


H200 = Hardware("cuda", 140 * GIB, 138 * GIB, bfloat16=True, capability=(9, 0), compiler=True)


def plan_of(tiny_base, lengths, **changes):
    section = unsloth_sft(max_steps=1000, **changes)
    return make_plan("sft", section, AutoModelForCausalLM.from_pretrained(tiny_base), lengths, H200)


def test_the_plan_leaves_the_fast_path_to_it_and_says_so(installed, tiny_base, monkeypatch):
    monkeypatch.setattr(stages.lib.training.decisions, "find_spec", lambda name: None)
    plan = plan_of(tiny_base, [512] * 8)
    assert (plan.attention, plan.padding_free, plan.pad_to_multiple_of) == (Attention.engine, False, None)
    assert (plan.torch_compile, plan.dequantize_once) == (False, False)
    assert "Unsloth compiles what it wants compiled" in plan.block("sft")
    assert "Unsloth's choice; found neither flash_attn nor xformers" in plan.block("sft")
    section = Sft(**tiny_training(engine=Engine.unsloth, quantization=Quantization.nf4))
    kept = make_plan("sft", section, AutoModelForCausalLM.from_pretrained(tiny_base), [64], H200)
    assert (kept.dequantize_once, kept.why["dequantize_once"]) == (False, "Unsloth's kernels read 4-bit weights")


def test_rows_are_packed_where_it_has_a_kernel_that_keeps_them_apart(installed, tiny_base, monkeypatch):
    uneven = [512, 50, 50, 50]
    monkeypatch.setattr(stages.lib.training.decisions, "find_spec", lambda name: None)
    assert not plan_of(tiny_base, uneven).padding_free
    assert plan_of(tiny_base, uneven, padding_free=Choice.always).padding_free
    monkeypatch.setattr(stages.lib.training.decisions, "find_spec", lambda name: name == "xformers" or None)
    assert plan_of(tiny_base, uneven).padding_free
    assert not plan_of(tiny_base, [512] * 4).padding_free
    assert not plan_of(tiny_base, uneven, padding_free=Choice.never).padding_free


def test_auto_picks_no_precision_that_it_cannot_read(installed, monkeypatch, tmp_path):
    monkeypatch.setattr(stages.lib.training.precision, "count_weights", lambda _: 8_000_000_000)
    card = Hardware("cuda", 16 * GIB, 16 * GIB, bfloat16=True, capability=(8, 6))
    picked = {}
    for engine in Engine:
        section = Sft(**tiny_training(engine=engine, quantization=Quantization.auto))
        picked[engine] = resolve_precision("sft", section, tmp_path, card)[0].quantization
    assert picked == {Engine.trl: Quantization.int8, Engine.unsloth: Quantization.nf4}


def test_its_log_has_no_column_that_it_does_not_fill(installed, tmp_path):
    entry = {"step": 1, "loss": 2.0, "learning_rate": 0.1, "grad_norm": 1.0}
    trainer = SimpleNamespace(state=SimpleNamespace(log_history=[entry]))
    run = TrainingRun("sft", unsloth_sft(), tmp_path, H200, 1, None, {}, None, None, {})
    run.publish_log(trainer, tmp_path / "log.csv", LOG_COLUMNS)
    with (tmp_path / "log.csv").open(encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [
            {"step": "1", "loss": "2.0", "learning_rate": "0.1", "grad_norm": "1.0"},
        ]  # fmt: skip
    run.section = Sft(**tiny_training())
    with pytest.raises(KeyError, match="mean_token_accuracy"):
        run.publish_log(trainer, tmp_path / "log.csv", LOG_COLUMNS)


def test_a_parity_that_nobody_measured_is_no_figure(installed, tiny_base, tmp_path):
    run = TrainingRun("sft", unsloth_sft(), tmp_path, H200, 1, None, {}, None, None, {})
    plan = plan_of(tiny_base, [64] * 4)
    run.publish_metrics(tmp_path / "sft.json", plan, {}, loss=1.0)
    assert json.loads((tmp_path / "sft.json").read_text()) == {"loss": 1.0}
    run.publish_metrics(tmp_path / "sft.json", replace(plan, parity=1e-5, parity_tokens=9), {}, loss=1.0)
    assert json.loads((tmp_path / "sft.json").read_text()) == {"loss": 1.0, "parity": 1e-5, "parity_tokens": 9}


def losses(place: Path, engine: str) -> list[float]:
    """Of three steps of `python -m stages.sft` in a process of its own."""
    arguments = arguments_of(Sft(**tiny_training(max_steps=3, quantization=Quantization.none))) | {"engine": engine}
    (place / "params.lock.yaml").write_text(yaml.safe_dump({"sft": arguments}), encoding="utf-8")
    environment = {**os.environ, "DVC_STAGE": "sft", "DVC_ROOT": str(place), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "stages.sft"], cwd=place, env=environment, check=True)
    with (place / "metrics/sft_log.csv").open(encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.skipif(not (INSTALLED and nvidia_gpu()), reason="needs unsloth and an NVIDIA GPU")
def test_its_losses_are_trls(place):
    assert losses(place, "unsloth") == pytest.approx(losses(place, "trl"), abs=0.02)
