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
from conftest import ROOT, Project
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stages.config import BASE_LINK, config, link_base
from stages.lib.configuration import compose_config, typed_sections
from stages.lib.every_stage.errors import UserError
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
        ("dpo.betta=0.2", ["dpo.betta=0.2: nothing reads the key dpo.betta; needed dpo.beta"]),
        ("sft.lora.r=sixteen", ["'sixteen'", "Integer", "sft.lora.r"]),
        ("sft.quantization=fp4", ["nf4, int8, none", "sft.quantization"]),
        ("model=gpt5", ["Could not find 'model/gpt5'", "smollm2-135m", "tinyllama-1.1b"]),
        ("sft.learning_rate=???", ["sft.learning_rate: no value"]),
        ("sft.learning_rate=-1", ["sft.learning_rate: found -1"]),
        ("dpo.beta=0", ["dpo.beta: found 0"]),
        ("sft.lora.r=0", ["sft.lora.r: found 0"]),
        ("sft.lora.target_modules=[]", ["sft.lora.target_modules"]),
        (
            "sft.lora.target_modules=all_linear",
            ["sft.lora.target_modules: found 'all_linear'", "all-linear, or a list"],
        ),
        ("sft.lora.init_lora_weights=pissa", ["found 'pissa'", "default or gaussian", "the model must be the base"]),
        ("sft={lora: {use_dora: true}, distributed: fsdp}", ["sft.lora.use_dora: found True", "none or ddp"]),
        (
            "dpo={lora: {loraplus_lr_ratio: 4}, distributed: auto}",
            ["dpo.lora.loraplus_lr_ratio: found 4", "none or ddp"],
        ),
        ("sft={lora: {use_dora: true}, engine: unsloth}", ["sft.lora.use_dora: found True", "engine=trl"]),
        ("sft.lora.target_modules=[1]", ["sft.lora.target_modules: found [1]"]),
        ("sft.micro_batch_size=-3", ["sft.micro_batch_size: found -3"]),
        ("merge.dtype=float32", ["merge.dtype: found 'float32'"]),
        ("sft.method=full", ["sft.method: found 'full'", "needed lora, since sft.keep_base.weight=3"]),
        ("sft.overlong=truncate", ["sft.overlong", "cut_turns"]),
        ("merge.base=dequantized", ["merge.base: found 'dequantized'", "original weights"]),
        ("dpo.method=full", ["dpo.method"]),
        ("preference.method=full", ["preference.method: found 'full', needed lora"]),
        (
            "preference={algorithm: kto, kl_batch_size: 3}",
            ["preference.kl_batch_size: found 3", "divides preference.batch_size=4: 1, 2, 4, and not 1"],
        ),
        ("preference={algorithm: kto, kl_batch_size: 1}", ["preference.kl_batch_size: found 1, needed 2 or more"]),
        (
            "preference={algorithm: kto, engine: unsloth}",
            ["preference.engine: found 'unsloth', needed trl, since preference.algorithm=kto"],
        ),
        ("preference.algorithm=dpo", ["orpo, cpo, simpo, kto", "preference.algorithm"]),
        ("judge.pairs=[kto:gpt]", ["judge.pairs: found 'kto:gpt'", "base, sft, dpo, orpo, cpo, simpo, kto"]),
        ("sft.mix={ultrachat:0,pdf_qa:0}", ["sft.mix"]),
        ("prepare_pdf_qa.raw_text=some", ["prepare_pdf_qa.raw_text", "some"]),
        ("prepare_pdf_qa.generate.rules=false", ["prepare_pdf_qa.generate.rules: found False", "nobody writes"]),
        ("prepare_pdf_qa.generate.kinds=[]", ["prepare_pdf_qa.generate.kinds: found []"]),
        ("prepare_pdf_qa.generate.kinds=[riddle]", ["riddle", "prepare_pdf_qa.generate.kinds"]),
        ("prepare_pdf_qa.generate.wordings=0", ["prepare_pdf_qa.generate.wordings: found 0"]),
        ("prepare_pdf_qa.generate.max_new_tokens=0", ["prepare_pdf_qa.generate.max_new_tokens: found 0"]),
        ("prepare_pdf_qa.rate.backend=hf", ["prepare_pdf_qa.rate.backend", "hf"]),
        ("prepare_pdf_qa.rate.backend=huggingface", ["prepare_pdf_qa.rate.model", "backend=huggingface"]),
        ("prepare_pdf_qa.rate={backend: openai, model: m}", ["prepare_pdf_qa.rate.endpoint: found ''"]),
        ("prepare_pdf_qa.rate.least=6", ["prepare_pdf_qa.rate.least: found 6"]),
        ("prepare_pdf_qa.rate.max_new_tokens=0", ["prepare_pdf_qa.rate.max_new_tokens: found 0"]),
        ("sft.keep_base.weight=-1", ["sft.keep_base.weight: found -1"]),
        ("sft={keep_base: {weight: 1}, mix: {ultrachat: 0}}", ["sft.mix.ultrachat: found 0", "sft.keep_base.weight=1"]),
        ("sft={keep_base: {weight: 1}, mix: {pdf_qa: 0, raw_text: 0}}", ["sft.mix.pdf_qa and raw_text: found (0, 0)"]),
        (
            "sft={keep_base: {weight: 1}, method: full, quantization: none}",
            [
                "sft.method: found 'full'",
                "lora, since sft.keep_base.weight=1: the base is the model with its adapter off",
            ],
        ),
        ("sft={keep_base: {weight: 1}, distributed: fsdp}", ["sft.distributed: found 'fsdp'", "none, ddp or auto"]),
        ("sft={keep_base: {weight: 1}, lora: {bias: all}}", ["sft.lora.bias: found 'all'", "biases stay on"]),
        ("prepare_base.pad_token='<|im_end|>'", ["prepare_base.pad_token", "never stops"]),
        ("prepare_base.source=hub", ["prepare_base.id", "source=hub"]),
        ("prepare_preferences.held_out_pairs=1", ["prepare_preferences.held_out_pairs"]),
        ("prepare_pdf_qa.files=[/srv/faq.jsonl]", ["prepare_pdf_qa.files: found /srv/faq.jsonl", "data/raw/pdf_qa"]),
        ("prepare_pdf_qa.pdfs=[data/raw/pdf_qa/../guide.pdf]", ["prepare_pdf_qa.pdfs: found", "data/raw/pdf_qa:"]),
        ("prepare_pdf_qa.languages=[]", ["prepare_pdf_qa.languages: found []", "[ko, en]"]),
        ("prepare_pdf_qa.languages=[ko,klingon]", ["prepare_pdf_qa.languages", "klingon"]),
        ("prepare_pdf_qa.only_reviewed=perhaps", ["'perhaps'", "prepare_pdf_qa.only_reviewed"]),
        ("++prepare_pdf_qa.columns={faq.csv:{a:reply}}", ["columns.faq.csv.a: found 'reply', needed one of"]),
        ("+prepare_preferences.rows.columns={hint:none}", ["rows.columns.hint: found 'none'", "ignore"]),
        ("prepare_preferences.rows.columns.hint=none", ["rows.columns.hint: found 'none'", "ignore"]),
        ("prepare_ultrachat.train={Ko: {source: jsonl, path: a.jsonl}}", ["train.Ko: found 'Ko'", "small letters"]),
        ("prepare_ultrachat.train.ko={path: a.jsonl, lines: 3}", ["lines"]),
        ("prepare_pdf_qa.held_out_wordings=-1", ["prepare_pdf_qa.held_out_wordings: found -1"]),
        (
            "prepare_ultrachat.train.en.path=chats.jsonl",
            ["prepare_ultrachat.train.en.path: found chats.jsonl", "Move it"],
        ),
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


def test_a_merge_that_dpo_would_quantise_again_is_refused(place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(UserError, match=r"merge\.base: found 'dequantized'.*rounds back"):
        config(["sft.quantization=nf4", "merge.base=dequantized", "dpo.quantization=nf4"])
    again = ["sft.quantization=nf4", "merge.base=dequantized", "preference.quantization=nf4", "preference.enabled=true"]
    with pytest.raises(UserError, match=r"merge\.base: found 'dequantized'.*preference\.quantization=nf4.*rounds back"):
        config([*again, "preference.algorithm=kto"])
    config(again)  # ORPO starts from the base
    (place / "params.lock.yaml").unlink()
    with pytest.raises(UserError, match=r"sft\.quantization: found 'nf4'.*sft\.method=full"):
        config(["sft.quantization=nf4", "merge.base=dequantized", "sft.method=full", "sft.keep_base.weight=0"])


def test_rewordings_of_reviewed_rows_alone_are_refused(place, monkeypatch):
    monkeypatch.chdir(place)
    said = "prepare_pdf_qa.reword.backend: found 'templates', needed none, or only_reviewed=false"
    with pytest.raises(UserError, match=said):
        config(["prepare_pdf_qa.only_reviewed=true", "prepare_pdf_qa.reword.backend=templates"])


UNKNOWN = {
    "sft.learningrate=5": "the key sft.learningrate; needed sft.learning_rate",
    "sft.lora.rank=5": "the key sft.lora.rank; needed sft.lora.r",
    "sft.lora={r: 8, alpha: 3}": "the key sft.lora.alpha; needed sft.lora.lora_alpha",
    "sft={lora: {rr: 3}}": "the key sft.lora.rr; needed sft.lora.r",
    "sft.beta=0.2": "the key sft.beta; needed dpo.beta or preference.beta",
    "sft.lora.r.x=1": "the key sft.lora.r.x; needed sft.lora.r",
    "modle=smollm2-135m": "the key modle; needed model",
    "dpoo.beta=1": "the key dpoo.beta; needed dpo.beta or preference.beta",
    "nothing=1": "the key nothing; needed one of params.lock.yaml",
    "sft.learningrate=1e-4,2e-4": "the key sft.learningrate; needed sft.learning_rate",
}
"""Overrides of keys that nothing reads, and what is said of each."""


@pytest.mark.parametrize("plus", ["", "+", "++"])
@pytest.mark.parametrize("override", UNKNOWN)
def test_an_unknown_key_is_refused_however_it_is_written(place, monkeypatch, plus, override):
    monkeypatch.chdir(place)
    with pytest.raises(UserError) as refused:
        config([plus + override])
    assert str(refused.value) == f"{plus}{override}: nothing reads {str(refused.value).partition('reads ')[2]}"
    assert UNKNOWN[override] in str(refused.value)
    assert "append" not in str(refused.value)
    assert not (place / "params.lock.yaml").exists()


def test_known_keys_may_be_written_with_a_plus(place, monkeypatch):
    monkeypatch.chdir(place)
    config(["++sft.lora.r=5", "hydra.job.name=x"])
    assert yaml.safe_load((place / "params.lock.yaml").read_text(encoding="utf-8"))["sft"]["lora"]["r"] == 5


@pytest.mark.parametrize("override", ["~sft", "~sft.lora.r", "~evaluate"])
def test_a_key_cannot_be_taken_away(place, monkeypatch, override):
    monkeypatch.chdir(place)
    with pytest.raises(UserError, match=rf"{override}: a key can't be taken away; needed a value for it"):
        config([override])


@pytest.mark.parametrize(
    "command",
    [
        ["stages.sft", "+sft.learningrate=5"],
        ["stages.merge", "++sft.learningrate=5"],  # of another stage's section
        ["stages.dpo", "--multirun", "+sft.learningrate=5,6"],
        ["stages.evaluate", "--cfg", "job", "sft.learningrate=5"],
        ["tools.sweep", "--multirun", "+sft.learningrate=5,6"],
    ],
)
def test_every_command_refuses_it(place, command):
    for name in ("stages", "tools", "data", "dvc.yaml"):  # a sweep looks at its inputs
        (place / name).symlink_to(ROOT / name)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", *command], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    assert "nothing reads the key sft.learningrate; needed sft.learning_rate" in done.stderr
    assert "Traceback" not in done.stderr and "append" not in done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sft: {learningrate: 5}", "params.yaml:3: nothing reads the key sft.learningrate; needed sft.learning_rate"),
        ("sft: {learningrate: null}", "params.yaml:3: nothing reads the key sft.learningrate"),
        ("preference: {lora: {rank: null}}", "params.yaml:3: nothing reads the key preference.lora.rank"),
        ("recip: guide", "params.yaml:3: nothing reads the key recip; needed recipe"),
        ("defaults: [model: smollm2-135m]", "params.yaml:3: nothing reads the key defaults"),
        ("merge.max_kl: 0.1", "found a dot in the key 'merge.max_kl'; needed one mapping"),
    ],
)  # fmt: skip
def test_an_unknown_key_of_params_is_named_with_its_line(place, line, said):
    (place / "params.yaml").write_text(f"model: smollm2-135m\ndata: default\n{line}\n", encoding="utf-8")
    code, output = run_config(place)
    assert code == 1 and said in output and "Traceback" not in output


def test_an_unknown_key_of_a_group_is_named_with_its_line(place):
    with (place / "conf/recipe/guide.yaml").open("a", encoding="utf-8") as file:
        file.write("merge:\n  max_lk: 1\n")
    code, output = run_config(place)  # whichever recipe is chosen
    number = (place / "conf/recipe/guide.yaml").read_text(encoding="utf-8").count("\n")
    assert code == 1
    assert f"conf/recipe/guide.yaml:{number}: nothing reads the key merge.max_lk; needed merge.max_kl" in output


@pytest.mark.parametrize(
    "name", ["params.yaml", "conf/config.yaml", "conf/recipe/guide.yaml", "conf/accelerate/ddp.yaml"]
)
def test_a_key_that_stands_twice_is_refused_with_both_lines(place, name):
    first = next(
        (number, line.partition(":")[0])
        for number, line in enumerate((place / name).read_text(encoding="utf-8").splitlines(), start=1)
        if line[:1].isalpha()
    )
    with (place / name).open("a", encoding="utf-8") as file:
        file.write(f"\n{first[1]}: {{}}\n")
    code, output = run_config(place)
    number = (place / name).read_text(encoding="utf-8").count("\n")
    assert code == 1
    assert f"{name}:{number}: the key {first[1]} is in line {first[0]} already" in output


@pytest.mark.parametrize("encoding", ["cp949", "utf-16"])
@pytest.mark.parametrize("name", ["params.yaml", "conf/data/own.yaml"])
def test_yaml_in_another_encoding_is_one_sentence(place, name, encoding):
    text = (place / name).read_text(encoding="utf-8") + "# 우리 파일\n"
    (place / name).write_bytes(text.encode(encoding, "replace"))
    code, output = run_config(place)
    assert code == 1 and len(output.splitlines()) == 1
    assert output.startswith(f"config: {name}:") and output.endswith("needed UTF-8; save the file as UTF-8\n")


@pytest.mark.slow
def test_a_refused_experiment_says_how_to_restore_and_leaves_nothing_else(tiny_model, tmp_path):
    project = Project(tmp_path / "project", tiny_model)
    project.repro("config")
    project.commit("locked")
    for setting, said in {
        "+sft.learningrate=5": "needed sft.learning_rate",
        "dpo.beta=-1": "dpo.beta: found -1",
    }.items():
        output = project.command("dvc", "exp", "run", "--set-param", setting, fails=True)
        assert said in output
        command = "git restore params.yaml"
        assert f"params.yaml holds what `dvc exp run -S` set: `{command}`" in output
        assert project.command("git", "status", "--porcelain").split() == ["M", "params.yaml"]
        project.command(*command.split())
        assert project.command("git", "status", "--porcelain") == ""
    project.write("conf/config.yaml", "merge: {", "merge: {probs: 1, ")
    project.commit("a mistake of conf/")
    output = project.command("dvc", "exp", "run", fails=True)  # nothing was set
    assert "needed merge.probes" in output and "git restore" not in output
    project.write("conf/config.yaml", "probs: 1, ", "")
    project.commit("fixed")
    output = project.command("dvc", "exp", "run", "--temp", "--set-param", "dpo.beta=-1", fails=True)
    assert "dpo.beta: found -1" in output and "git restore" not in output
    assert project.command("git", "status", "--porcelain") == ""
    project.write("params.yaml", "recipe: quickstart", "recipe: quick")
    assert "git restore" not in project.command("dvc", "repro", "config", fails=True)
    assert project.command("git", "status", "--porcelain").split() == ["M", "params.yaml"]


@pytest.mark.slow
def test_an_edited_default_of_any_section_reaches_the_lock(tiny_model, tmp_path):
    project = Project(tmp_path / "project", tiny_model)
    assert project.repro("config") == ["config"]
    assert project.repro("config") == []
    project.write("stages/lib/schema/merging.py", "more_than(0), 0.5)", "more_than(0), 0.25)")
    assert project.repro("config") == ["config"]
    lock = yaml.safe_load((project.directory / "params.lock.yaml").read_text(encoding="utf-8"))
    assert lock["merge"]["max_kl"] == lock["merge_dpo"]["max_kl"] == 0.25


def test_a_lock_with_a_key_that_the_code_does_not_know_is_one_sentence(place):
    assert run_config(place)[0] == 0
    lock = place / "params.lock.yaml"
    lock.write_text(lock.read_text(encoding="utf-8").replace("max_kl:", "max_lk:"), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DVC_STAGE": "merge"}
    command = [sys.executable, "-m", "stages.merge"]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith(
        "merge: params.lock.yaml: Key 'max_lk' not in 'Merge' (merge); needed what `dvc repro"
    )


LOCK_DAMAGES = {
    "empty": lambda text: "",
    "cut": lambda text: text[:200],
    "conflict": lambda text: f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> other\n",
}


@pytest.mark.parametrize("damage", list(LOCK_DAMAGES))
def test_a_damaged_lock_is_one_sentence_for_a_stage_and_written_anew_by_config(place, damage):
    """As a merge of two branches with values of their own leaves it."""
    assert run_config(place)[0] == 0
    lock = place / "params.lock.yaml"
    whole = lock.read_text(encoding="utf-8")
    lock.write_text(LOCK_DAMAGES[damage](whole), encoding="utf-8")

    def run_under_dvc(stage):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "DVC_STAGE": stage}
        command = [sys.executable, "-m", f"stages.{stage}"]
        return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)

    done = run_under_dvc("merge")
    assert done.returncode == 1
    assert done.stderr == "merge: params.lock.yaml: found no section merge, needed what `dvc repro config` writes\n"
    done = run_under_dvc("config")
    assert done.returncode == 0, done.stderr
    assert lock.read_text(encoding="utf-8") == whole


@pytest.mark.slow
def test_dvc_repro_goes_on_over_a_lock_in_conflict(tiny_model, tmp_path):
    project = Project(tmp_path / "project", tiny_model)
    assert project.repro("config") == ["config"]
    lock = project.directory / "params.lock.yaml"
    whole = lock.read_text(encoding="utf-8")
    lock.write_text(LOCK_DAMAGES["conflict"](whole), encoding="utf-8")
    assert project.repro("prepare-base") == ["config", "prepare-base"]
    assert lock.read_text(encoding="utf-8") == whole


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


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_columns_of_ones_own_are_no_unknown_keys(place, plus):
    words = [f"{plus}prepare_pdf_qa.columns={{faq.csv:{{path:ignore}}}}",
             f"{plus}prepare_preferences.rows.columns.hint=ignore"]  # fmt: skip
    code, output = run_config(place, *words)
    assert code == 0, output
    sections = yaml.safe_load((place / "params.lock.yaml").read_text(encoding="utf-8"))
    assert sections["prepare_pdf_qa"]["columns"] == {"faq.csv": {"path": "ignore"}}
    assert sections["prepare_preferences"]["rows"]["columns"] == {"hint": "ignore"}


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
    "keep_base.weight": "-1",
    "keep_base.max_tokens": "0",
    "lora.target_modules": "[]",
    "lora.num_layers": "0",
    "lora.use_dora": "maybe",
    "lora.use_rslora": "perhaps",
    "lora.init_lora_weights": "pissa",
    "lora.loraplus_lr_ratio": "0.5",
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
    "mix.raw_text": "-1",
    "loss_on": "question",
    "loss": "mse",
    "overlong": "drop",
    "beta": "-1",
    "algorithm": "ppo",
    "start": "dpo",
    "cpo_alpha": "-1",
    "simpo_gamma": "-0.1",
    "desirable_weight": "0",
    "undesirable_weight": "0",
    "kl_batch_size": "1",
    "loss_type": "[sigmoidal]",
    "loss_weights": "[1, 2, 3]",
    "label_smoothing": "0.5",
    "prepared_share": "1.5",
    "precompute_ref_log_probs": "often",
    "enabled": "perhaps",
    "base": "quantized",
    "probes": "0",
    "max_kl": "0",
    "max_new_tokens": "-1",
    "batch_tokens": "-1",
    "continuous_batching": "perhaps",
    "bootstrap_resamples": "0",
    "backend": "oracle",
    "pairs": "[dpo:dpo]",
    "questions": "0",
    "limit": "-1",
    "samples": "0",
    "sources": "[hearsay]",
    "temperature": "0",
    "wordings": "-1",
    "pairs_per_question": "0",
    "max_ratio": "0.5",
    "allow_code": "perhaps",
    "model": "gpt",
    "formats": "[q9_9]",
    "max_loss": "1",
    "reward": "applause",
    "num_generations": "1",
    "max_completion_length": "0",
    "use_vllm": "perhaps",
    "layers": "-1",
    "rows": "0",
}
"""A value that nothing can use, for each key of a section that trains, merges or scores."""

TRAINED = (
    "sft",
    "dpo",
    "preference",
    "reward",
    "rl",
    "heal",
    "merge",
    "merge_dpo",
    "merge_preference",
    "merge_rl",
    "merge_heal",
)
SCORED = ("sample_preferences", "prune", "evaluate", "quantize", "judge", "benchmark")
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


def test_a_local_base_is_linked_where_dvc_looks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    link_base({"source": "wheel", "path": ""})
    assert BASE_LINK.read_text(encoding="utf-8") == (ROOT / BASE_LINK).read_text(encoding="utf-8")
    for target in (tmp_path / "one", tmp_path / "two", "one"):
        link_base({"source": "local", "path": str(target)})
        assert BASE_LINK.is_symlink()
        assert BASE_LINK.resolve() == tmp_path / target
    with pytest.raises(UserError, match="prepare_base.path: found nothing at nowhere"):
        link_base({"source": "local", "path": "nowhere"})
    link_base({"source": "hub", "path": "one"})
    assert not BASE_LINK.is_symlink()
    assert BASE_LINK.is_file()
