"""lm-evaluation-harness on local tasks of the shapes of MMLU, HellaSwag, GLUE, TruthfulQA, KoBEST and GSM8k."""

import json
import shutil
import sys

import pytest
import yaml
from conftest import flip_a_bit

from stages.benchmark import BENCHMARK, DETAIL, benchmark
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import write_jsonl
from stages.lib.schema.evaluation import Benchmark

OPTIONS = {"seed": 1, "threads": 1, "batch_size": 4}


def task(folder, name, rows, **fields):
    """A task file over a JSON Lines file beside it."""
    write_jsonl(folder / f"{name}.jsonl", rows)
    content = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
        "test_split": "test",
        **fields,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")


@pytest.fixture
def harness():
    """lm-evaluation-harness, where the extra is installed (make test does it)."""
    return pytest.importorskip("lm_eval")


@pytest.fixture
def tasks(harness, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    accuracy = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    choices = [
        {"question": f"{n} 더하기 {n}은?", "choices": [str(n), str(2 * n), "없음", "모름"], "answer": 1}
        for n in range(1, 9)
    ]
    task(folder, "local_mmlu", choices, output_type="multiple_choice", doc_to_text="질문: {{question}}\n답:",
         doc_to_choice="{{choices}}", doc_to_target="answer", metric_list=accuracy)  # fmt: skip
    pairs = [{"sentence": f"좋은 날 {n}", "label": n % 2} for n in range(8)]
    task(folder, "local_glue", pairs, output_type="multiple_choice", doc_to_text="{{sentence}}\n긍정인가?",
         doc_to_choice=["아니오", "네"], doc_to_target="label", metric_list=accuracy[:1])  # fmt: skip
    sums = [{"question": f"{n}+1은?", "answer": f"#### {n + 1}"} for n in range(4)]
    task(folder, "local_gsm8k", sums, output_type="generate_until", doc_to_text="{{question}}\n",
         doc_to_target="{{answer.split('####')[-1].strip()}}",
         generation_kwargs={"until": ["\n"], "do_sample": False, "max_gen_toks": 4},
         metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}])  # fmt: skip
    return folder


@pytest.fixture
def three_models(place):
    for name in ("sft-merged", "dpo-merged"):
        shutil.copytree(place / "models/base", place / "models" / name)
    return place


def test_nothing_is_run_by_default(three_models):
    benchmark(Benchmark(**OPTIONS), three_models)
    assert json.loads((three_models / BENCHMARK).read_text(encoding="utf-8")) == {}
    assert json.loads((three_models / DETAIL).read_text(encoding="utf-8")) == {}


def test_without_the_extra_it_says_how_to_get_it(three_models, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(UserError, match=r"pip install '\.\[bench\]'"):
        benchmark(Benchmark(["mmlu"], **OPTIONS), three_models)


@pytest.mark.slow
def test_local_tasks_of_each_shape(three_models, tasks):
    names = ["local_mmlu", "local_glue", "local_gsm8k"]
    benchmark(Benchmark(names, str(tasks), **OPTIONS), three_models)
    figures = json.loads((three_models / BENCHMARK).read_text(encoding="utf-8"))
    assert set(figures) == {"base", "sft", "dpo"}
    assert figures["base"] == figures["dpo"]
    assert set(figures["base"]) == set(names)
    assert set(figures["base"]["local_mmlu"]) == {"acc", "acc_norm"}
    assert all(0 <= value <= 1 for cells in figures["base"].values() for value in cells.values())
    detail = json.loads((three_models / DETAIL).read_text(encoding="utf-8"))
    assert detail["sft"]["n-samples"]["local_mmlu"] == {"original": 8, "effective": 8}
    cell = detail["sft"]["figures"]["local_mmlu"]["acc"]
    assert cell["n"] == 8
    assert cell["low"] < cell["value"] < cell["high"] or cell["value"] in (0, 1)


@pytest.mark.slow
def test_a_flipped_bit_in_a_model_is_refused(three_models, tasks):
    flip_a_bit(three_models / "models/dpo-merged/model.safetensors", 5000)
    with pytest.raises(UserError, match=r"models/dpo-merged: model\.safetensors isn't what its stage wrote"):
        benchmark(Benchmark(["local_glue"], str(tasks), **OPTIONS), three_models)
    assert not (three_models / BENCHMARK).exists()


@pytest.mark.slow
def test_an_unknown_task_is_named(three_models, tasks):
    with pytest.raises(UserError, match=r"local_nothing: lm-eval \S+ knows no such task"):
        benchmark(Benchmark(["local_mmlu", "local_nothing"], str(tasks), **OPTIONS), three_models)


@pytest.mark.slow
def test_code_of_a_model_is_not_run_unless_allowed(three_models, tasks):
    task(tasks, "local_humaneval", [{"question": "def f(): pass", "answer": "1"}], output_type="generate_until",
         doc_to_text="{{question}}", doc_to_target="{{answer}}", unsafe_code=True,
         generation_kwargs={"until": ["\n"], "max_gen_toks": 2},
         metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}])  # fmt: skip
    with pytest.raises(UserError, match=r"benchmark\.allow_code=true"):
        benchmark(Benchmark(["local_humaneval"], str(tasks), **OPTIONS), three_models)
    with pytest.raises(UserError, match=r"benchmark\.allow_code=true"):
        benchmark(Benchmark(["humaneval"], **OPTIONS), three_models)
    assert not (three_models / BENCHMARK).exists()
    benchmark(Benchmark(["local_humaneval"], str(tasks), allow_code=True, **OPTIONS), three_models)
    assert (three_models / BENCHMARK).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mmlu_anatomy", "cola", "truthfulqa_mc2", "gsm8k", "hellaswag", "kmmlu_direct_law", "kobest_copa"]
)
def test_public_tasks_are_known_by_their_names_and_offline_say_what_to_do(three_models, tasks, name):
    with pytest.raises(UserError, match=r"the data can't be had"):
        benchmark(Benchmark([name], **OPTIONS), three_models)
