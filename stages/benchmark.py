"""Public benchmarks by lm-evaluation-harness, on the three models.

Reads   models/base, models/sft-merged, models/dpo-merged
Writes  metrics/benchmark.json (figures), metrics/benchmark_detail.json (with n, intervals, versions)
Run     python -m stages.benchmark benchmark.tasks=[mmlu,kobest] benchmark.limit=100

Needs the extra `bench`, and the Hub for tasks that are not files of one's own. tasks=[], the default, runs nothing and
writes empty files.
"""

from pathlib import Path
from typing import Any

from stages.lib.evaluation.harness import load_tasks, numbers, run_tasks, with_intervals
from stages.lib.every_stage.entry import run
from stages.lib.every_stage.lineage import refuse_damaged, weights_sha256
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_json
from stages.lib.hardware import describe, set_up_cpu
from stages.lib.schema.evaluation import Benchmark

BASE = Path("models/base")
SFT = Path("models/sft-merged")
DPO = Path("models/dpo-merged")
BENCHMARK = Path("metrics/benchmark.json")
DETAIL = Path("metrics/benchmark_detail.json")

MODELS = {"base": BASE, "sft": SFT, "dpo": DPO}


def benchmark(section: Benchmark, root: Path) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    detail: dict[str, Any] = {}
    if section.tasks:
        set_up_cpu(section.threads)
        tasks = load_tasks(section)
        for name, directory in MODELS.items():
            print(f"benchmark: {name}", flush=True)
            refuse_damaged(directory)
            results = run_tasks(section, tasks, directory)
            figures[name] = numbers(results["results"])
            detail[name] = {
                "weights_sha256": weights_sha256(directory),
                "figures": with_intervals(results),
                **{key: results[key] for key in ("results", "versions", "n-shot", "n-samples")},
            }
    with published(root / DETAIL) as path:
        write_json(path, detail)
    with published(root / BENCHMARK) as path:
        write_json(path, figures)
    return describe() if section.tasks else {"tasks": 0}


if __name__ == "__main__":
    run(benchmark)
