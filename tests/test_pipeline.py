"""What holds between dvc.yaml, the stages, the configuration and the tests; no torch, seconds."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from stages.lib.configuration import FILES, GROUPS, SECTIONS, WATCHED, compose_config, typed_sections
from stages.lib.every_stage.errors import UserError
from stages.lib.schema import choices, data, evaluation, training
from stages.lib.schema.config import Config

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
SCHEMA = {f"stages/lib/schema/{path.name}" for path in (ROOT / "stages/lib/schema").glob("*.py")}
EXEMPT = {*SCHEMA, "stages/lib/configuration.py"}
"""Tracked by their values: all that they decide is in params.lock.yaml."""

ORDER = [
    "config",
    "prepare-base",
    "probe-base",
    "prepare-ultrachat",
    "prepare-pdf-qa",
    "prepare-preferences",
    "sft",
    "merge",
    "sample-preferences",
    "dpo",
    "merge-dpo",
    "preference",
    "merge-preference",
    "reward",
    "rl",
    "merge-rl",
    "prune",
    "heal",
    "merge-heal",
    "evaluate",
    "quantize",
    "judge",
    "benchmark",
    "report",
]


def module_file(stage: str) -> Path:
    return ROOT / "stages" / f"{stage.replace('-', '_')}.py"


def library_imports(path: Path) -> set[str]:
    """Library modules that a file imports, anywhere in it and transitively, as paths from the root."""
    found: set[str] = set()
    todo = [path]
    while todo:
        for node in ast.walk(ast.parse(todo.pop().read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("stages."):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                file = f"{name.replace('.', '/')}.py"
                if name.startswith("stages.") and (ROOT / file).is_file() and file not in found | EXEMPT:
                    found.add(file)
                    todo.append(ROOT / file)
    return found


def declared(stage: str, *keys: str) -> set[str]:
    entries = [entry for key in keys for entry in PIPELINE[stage].get(key, [])]
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def test_stages_stand_in_the_order_they_run():
    assert list(PIPELINE) == ORDER


def test_stage_module_section_and_test_share_a_name():
    modules = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    names = {stage.replace("-", "_") for stage in PIPELINE}
    assert modules == names
    assert set(SECTIONS) == names - {"config"}
    assert {field.name for field in dataclasses.fields(Config)} == {*SECTIONS, "seed", "system_messages"}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests/stages").glob("test_*.py")}
    assert tests == names


@pytest.mark.parametrize("stage", PIPELINE)
def test_command_and_params_follow_the_name(stage):
    name = stage.replace("-", "_")
    assert PIPELINE[stage]["cmd"] == f"python -m stages.{name}"
    if stage != "config":
        assert PIPELINE[stage]["params"] == [{"params.lock.yaml": [name]}]


def modules_needed(stage: str) -> set[str]:
    needed = {f"stages/{module_file(stage).name}"} | library_imports(module_file(stage))
    if stage == "config":
        configuration = ROOT / "stages/lib/configuration.py"
        needed |= {"stages/lib/configuration.py"} | SCHEMA | library_imports(configuration)
    return needed


def modules_declared(stage: str) -> set[str]:
    """The modules that a stage's code dependencies cover, folders with all that is below them."""
    covered: set[str] = set()
    for dep in declared(stage, "deps"):
        if dep.startswith("stages/"):
            files = (ROOT / dep).rglob("*.py") if (ROOT / dep).is_dir() else [ROOT / dep]
            covered |= {str(file.relative_to(ROOT)) for file in files if file.name != "__init__.py"}
    return covered


MORE_THAN_IMPORTED = {
    "config": {"stages/lib/every_stage/lineage.py", "stages/lib/every_stage/records.py"},
    "prepare-pdf-qa": {"stages/lib/data/hub_rows.py", "stages/lib/data/rows.py"},
    "merge": {"stages/lib/models/shape.py"},
    "merge-dpo": {"stages/lib/models/shape.py"},
    "merge-preference": {"stages/lib/models/shape.py"},
    "rl": {"stages/lib/training/token_rows.py"},
    "merge-rl": {"stages/lib/models/shape.py"},
    "merge-heal": {"stages/lib/models/shape.py"},
    "report": {"stages/lib/every_stage/lineage.py"},
}
"""What a folder brings along that its stage doesn't import: an edit there reruns the stage, which takes seconds and
ends in the same bytes, so that nothing after it runs. Of the stages that train, sample or score, rl alone
is among them: it asks questions as text."""


@pytest.mark.parametrize("stage", PIPELINE)
def test_code_deps_cover_the_modules_imported_and_no_more(stage):
    needed = modules_needed(stage) - {"stages/lib/schema/__init__.py"}
    assert needed - modules_declared(stage) == set()
    assert modules_declared(stage) - needed == MORE_THAN_IMPORTED.get(stage, set())


@pytest.mark.parametrize("stage", PIPELINE)
def test_deps_are_the_data_first_then_the_code(stage):
    code = [dep.startswith("stages/") for dep in PIPELINE[stage]["deps"]]
    assert code == sorted(code)


def test_dvc_yaml_can_be_read_at_once():
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) < 620


@pytest.mark.parametrize("stage", [stage for stage in PIPELINE if stage != "config"])
def test_path_constants_are_the_deps_and_outs(stage):
    tree = ast.parse(module_file(stage).read_text(encoding="utf-8"))
    constants = {
        ast.literal_eval(node.value.args[0])
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "Path"
    }
    code = {dep for dep in declared(stage, "deps") if dep.startswith("stages/")}
    assert constants == declared(stage, "deps", "outs", "plots", "metrics") - code


def test_config_lets_a_data_stage_read_what_dvc_watches_for_it():
    for section, folder in WATCHED.items():
        assert str(folder) in declared(section.replace("_", "-"), "deps")
    kinds = (data.Rows, data.PrepareUltrachat, data.PreparePdfQa, data.PreparePreferences)
    assert {field.name for kind in kinds for field in dataclasses.fields(kind)} >= FILES


def test_importing_stages_and_tools_is_cheap():
    files = [*(ROOT / "stages").glob("*.py"), *(ROOT / "stages/lib").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if path.stem != "__init__"]
    code = (
        f"import sys, {', '.join(modules)}\nprint(sorted({{'torch', 'transformers', 'datasets'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ASKED = {"hub": {"prepare_base": {"id": "org/model"}}, "local": {"prepare_base": {"path": "data"}}}
"""What a choice asks its user for."""


def group_files() -> list[tuple[str, str]]:
    return [(group, path.stem) for group in GROUPS for path in sorted((ROOT / "conf" / group).glob("*.yaml"))]


def test_every_group_has_files():
    assert {group for group, _ in group_files()} == set(GROUPS)


@pytest.mark.parametrize(("group", "choice"), group_files())
def test_every_conf_file_composes(group, choice, monkeypatch):
    monkeypatch.chdir(ROOT)
    composed = compose_config({group: choice}, ASKED.get(choice, {}))
    if terms := composed.prepare_base.terms:  # a model that must be accepted first
        with pytest.raises(UserError, match=f"accept_license={terms.license}"):
            typed_sections(composed)
        composed.prepare_base.accept_license = terms.license
    assert set(typed_sections(composed)) == set(SECTIONS)


def test_a_model_by_its_name_alone_leaves_the_rest_to_its_repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    base = typed_sections(compose_config({"model": "hub"}, {"prepare_base": {"id": "Qwen/Qwen3-0.6B"}}))["prepare_base"]
    assert (base["chat_template"], base["pad_token"], base["stop_tokens"]) == ("own", "auto", [])
    with pytest.raises(UserError, match=r"prepare_base\.id: found '', needed a value for source=hub"):
        typed_sections(compose_config({"model": "hub"}, {}))


def test_no_secret_can_reach_the_lock():
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert "oc.env" not in path.read_text(encoding="utf-8"), path


def test_every_config_key_is_read():
    """Each field of the schema is an attribute that some stage or library module looks at."""
    files = [*(ROOT / "stages").rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files if path.parent.name != "schema")
    checks = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "stages/lib/schema").glob("*.py"))
    types = [
        value
        for part in (data, training, evaluation)
        for value in vars(part).values()
        if dataclasses.is_dataclass(value)
    ]
    unread = {
        f"{kind.__name__}.{field.name}"
        for kind in types
        for field in dataclasses.fields(kind)
        if not re.search(rf"\.{field.name}\b", code) and not re.search(rf"self\.{field.name}\b", checks)
    }
    assert unread == set()


def test_the_notebook_and_the_guide_are_one_choice_away(monkeypatch):
    """Their exact values (recipe.md), and no knob of params.yaml outlives a change of recipe."""
    monkeypatch.chdir(ROOT)
    notebook = typed_sections(
        compose_config({"model": "tinyllama-1.1b", "data": "notebook", "recipe": "notebook"}, {}),
    )
    sft, dpo = notebook["sft"], notebook["dpo"]
    for section in (sft, dpo):
        assert (section["lora"]["r"], section["lora"]["lora_alpha"], section["lora"]["lora_dropout"]) == (64, 128, 0.1)
        assert section["lora"]["bias"] == "none"
        assert (
            section["lora"]["target_modules"] == "all-linear"
        )  # on a Llama the notebook's seven (test_target_modules)
        assert (section["quantization"], section["dtype"], section["optim"]) == ("nf4", "float16", "paged_adamw_32bit")
        assert (section["batch_size"], section["max_length"], section["lr_scheduler_type"]) == (2 * 4, 512, "cosine")
        assert section["logging_steps"] == 10
    assert (sft["learning_rate"], sft["num_train_epochs"], sft["loss_on"]) == (2e-4, 1, "all")
    assert (dpo["learning_rate"], dpo["max_steps"], dpo["warmup_steps"], dpo["beta"]) == (1e-5, 200, 0.1, 0.1)
    train = notebook["prepare_ultrachat"]["train"]["en"]
    assert (train["split"], train["shuffle_seed"], train["take"]) == ("test_sft", 42, 3000)
    assert notebook["prepare_ultrachat"]["evaluation"]["en"]["skip"] == 3000
    assert notebook["prepare_preferences"]["min_chosen_score"] == 8

    guide = typed_sections(compose_config({"model": "llama3-open-ko-8b", "recipe": "guide"}, {}))
    assert guide["prepare_base"]["id"] == "beomi/Llama-3-Open-Ko-8B-Instruct-preview"
    assert guide["sft"]["max_length"] == 4096
    assert (guide["sft"]["lora"]["r"], guide["sft"]["lora"]["lora_alpha"]) == (16, 32)
    assert (guide["sft"]["learning_rate"], guide["sft"]["dtype"]) == (2e-4, "auto")
    assert guide["sft"]["mix"] == {"ultrachat": 0, "pdf_qa": 1, "raw_text": 1}


def test_shipped_params_leave_every_knob_to_the_recipe(monkeypatch):
    monkeypatch.chdir(ROOT)
    from stages.lib.configuration import read_params

    _, knobs = read_params()
    assert knobs == {}


def test_the_schemas_choices_are_the_libraries_own():
    from transformers import SchedulerType
    from transformers.training_args import OptimizerNames

    assert {value.value for value in choices.Optim} <= {choice.value for choice in OptimizerNames}
    assert {value.value for value in choices.Scheduler} <= {choice.value for choice in SchedulerType}


def test_dvcs_tables_fit_a_screen():
    """One file of ten figures is a metric; `dvc metrics show` of all that is measured was 60,000 characters wide."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    metrics = [path for stage in stages.values() for entry in stage.get("metrics", []) for path in entry]
    assert metrics == ["metrics/scores.json"]


def test_every_stage_that_takes_long_is_in_dvcs_run_cache():
    """DVC brings earlier results back only of stages whose outs outside of its cache are metrics or plots."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    plain = {
        name
        for name, stage in stages.items()
        for out in stage.get("outs", [])
        if isinstance(out, dict) and not next(iter(out.values())).get("cache", True)
    }
    assert plain == {"config", "report"}  # a second each
