"""lm-evaluation-harness behind two functions: its tasks by name, and its results for one model."""

from pathlib import Path
from typing import Any, NoReturn

from stages.lib.every_stage.errors import UserError
from stages.lib.hardware import device, resolve_dtype
from stages.lib.models.loading import load_16bit, load_tokenizer
from stages.lib.schema.choices import Dtype
from stages.lib.schema.evaluation import Benchmark


def load_tasks(section: Benchmark) -> Any:
    """lm-eval's tasks by name. Raises UserError without the extra, for unknown names, and for tasks that run code."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise UserError(
            "benchmark.tasks: lm-evaluation-harness is not installed; needed the extra: pip install '.[bench]'"
        ) from None
    manager = TaskManager(include_path=section.task_folder or None)
    unknown = [name for name in section.tasks if name not in manager.all_tasks]
    if unknown:
        raise UserError(
            f"benchmark.tasks: {', '.join(unknown)}: lm-eval {version_of_harness()} knows no such task; needed one of "
            "its names (`lm-eval ls tasks`) or of a file in benchmark.task_folder"
        )
    unsafe = [name for name in section.tasks if (manager.task_index[name].cfg or {}).get("unsafe_code")]
    if unsafe and not section.allow_code:
        refuse_code(", ".join(unsafe))
    return manager


def refuse_code(names: str) -> NoReturn:
    """Raise UserError for tasks that run code."""
    raise UserError(
        f"benchmark.tasks: {names}: these tasks execute code that a model wrote; run them in a container, with "
        "benchmark.allow_code=true"
    )


def run_tasks(section: Benchmark, tasks: Any, directory: Path) -> dict[str, Any]:
    """lm-eval's results of one model. Raises UserError for data that can't be had and for code that may not run."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    model = load_16bit(directory, resolve_dtype(Dtype.auto))
    harness_model = HFLM(
        pretrained=model, tokenizer=load_tokenizer(directory), batch_size=section.batch_size, device=device()
    )
    try:
        results = simple_evaluate(
            model=harness_model,
            tasks=list(section.tasks),
            task_manager=tasks,
            limit=section.limit or None,
            apply_chat_template=False,
            confirm_run_unsafe_code=section.allow_code,
            log_samples=False,
            bootstrap_iters=1000,  # with 0, lm-eval gives no standard error of any figure
            random_seed=section.seed,
            numpy_random_seed=section.seed,
            torch_random_seed=section.seed,
            fewshot_random_seed=section.seed,
        )
    except ValueError as error:
        if "unsafe" not in str(error):
            raise
        refuse_code(str(error))  # inside a group of tasks
    except (ConnectionError, OSError) as error:
        raise UserError(
            f"benchmark.tasks: {', '.join(section.tasks)}: the data can't be had: {error}. Go online, or give "
            "benchmark.task_folder tasks of the same shape (data/README.md)"
        ) from None
    return results


def numbers(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Figures by task without lm-eval's filter names (acc,none): `dvc metrics` splits names at dots."""
    return {
        task.replace(".", "_"): {
            name.split(",")[0]: round(value, 4)
            for name, value in values.items()
            if isinstance(value, float) and "stderr" not in name
        }
        for task, values in results.items()
    }


def with_intervals(results: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Figures by task as value, and where lm-eval knows them n (rows), low and high: 95 % by its standard error."""
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for task, raw in results["results"].items():
        rows = results["n-samples"].get(task, {}).get("effective")
        errors = {key.split(",")[0]: value for key, value in raw.items()}
        ((named, values),) = numbers({task: raw}).items()
        figures[named] = {}
        for name, value in values.items():
            cell, error = {"value": value}, errors.get(f"{name}_stderr")
            if rows:
                cell["n"] = rows
            if isinstance(error, float):
                cell |= {"low": round(value - 1.96 * error, 4), "high": round(value + 1.96 * error, 4)}
            figures[named][name] = cell
    return figures


def version_of_harness() -> str:
    """The installed version of lm-eval."""
    from importlib.metadata import version

    return version("lm-eval")
