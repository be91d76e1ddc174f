"""What happens in a run of training that a stage takes: seconds of its steps, tokens, losses, where the time goes."""

import cProfile
import json
import pstats
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages.lib.training.processes import from_all

PROFILED = 5
"""Steps that a profile is of."""


class Watch:
    """What happens in a run: the ends of steps, tokens of each pass, losses.

    A GPU may be a step behind, as in any run: it is waited for at the steps in `borders` and at the first and the last
    one alone.
    """

    def __init__(self, *borders: int) -> None:
        self.borders = {1, *borders}
        self.ends: list[float] = []
        self.tokens: list[int] = []
        self.losses: list[float] = []

    def attach(self, trainer: Any) -> None:
        """Stand in for report_progress on a trl trainer."""
        import torch
        from transformers import TrainerCallback

        watch, collate, train = self, trainer.data_collator, trainer.training_step
        passes: list[Any] = []
        steps: list[Any] = []

        class Steps(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                steps.append(sum(passes))
                passes.clear()
                if torch.cuda.is_available() and state.global_step in {*watch.borders, state.max_steps}:
                    torch.cuda.synchronize()
                watch.ends.append(time.perf_counter())

            def on_train_end(self, *_: Any, **__: Any) -> None:
                of_each = from_all([float(loss) for loss in steps])
                watch.losses = [round(sum(losses) / len(losses), 4) for losses in zip(*of_each, strict=True)]

        def counted(rows: list[dict[str, Any]]) -> Any:
            watch.tokens.append(sum(map(tokens_of, rows)))
            return collate(rows)

        def kept(*given: Any) -> Any:
            loss = train(*given)
            passes.append(loss.clone())
            return loss

        trainer.add_callback(Steps())
        trainer.data_collator = counted
        trainer.training_step = kept

    def figures(self, warm_up: int, steps: int) -> dict[str, Any]:
        """Tokens a second and seconds a step in the `steps` after the warm-up."""
        seconds = self.ends[-1] - self.ends[warm_up - 1]
        passes = len(self.tokens) // (warm_up + steps)
        counted = sum(self.tokens[passes * warm_up :][: passes * steps])
        return {
            "tokens_per_second": round(counted / seconds),
            "seconds_per_step": round(seconds / steps, 4),
            "warm_up_seconds": round(self.ends[warm_up - 1] - self.ends[0], 1),
            "losses": self.losses[:20],
        }


def tokens_of(row: dict[str, list[int]]) -> int:
    """Tokens that a row costs without padding; a pair's prompt is read once for each answer."""
    if "input_ids" in row:
        return len(row["input_ids"])
    return 2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])


def resident_peak() -> float:
    """Peak resident memory of this process in GiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Profiled(Watch):
    """Where the time of PROFILED steps after the warm-up goes; then, on a GPU, what the host does in as many."""

    def __init__(self, warm_up: int) -> None:
        super().__init__(warm_up, warm_up + PROFILED, warm_up + 2 * PROFILED)
        self.warm_up = warm_up
        self.found: dict[str, Any] = {}

    def attach(self, trainer: Any) -> None:
        """Stand in for report_progress on a trl trainer."""
        import torch
        from transformers import TrainerCallback

        super().attach(trainer)
        on_gpu = torch.cuda.is_available()
        activity = torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
        watch, profiler, host = self, torch.profiler.profile(activities=[activity]), cProfile.Profile()

        class Window(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                past = len(watch.ends) - watch.warm_up
                if past == 0:
                    profiler.start()
                    self.began = time.perf_counter()
                if past == PROFILED:
                    step_ms = (time.perf_counter() - self.began) * 1000 / PROFILED
                    profiler.stop()
                    spent = kernels(profiler, step_ms) if on_gpu else operators(profiler)
                    watch.found = {"step_ms": round(step_ms, 1), **spent}
                if past == PROFILED and on_gpu:
                    host.enable()
                if past == 2 * PROFILED and on_gpu:
                    host.disable()
                    watch.found["host_ms"] = functions(host)

        trainer.add_callback(Window())


def operators(profiler: Any) -> dict[str, Any]:
    """Milliseconds a step of the operators of a CPU that took longest."""
    spent = {each.key: each.self_cpu_time_total / 1000 / PROFILED for each in profiler.key_averages()}
    return {"longest_ms": longest(spent)}


def kernels(profiler: Any, step_ms: float) -> dict[str, Any]:
    """Milliseconds a step in which a GPU computed, only talked to other GPUs, or waited; its longest kernels and waits.

    A wait is named by the kernels before and after it.
    """
    with TemporaryDirectory() as scratch:
        trace = Path(scratch) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    of_gpu = [each for each in events if each.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    spans = sorted((each["ts"], each["ts"] + each["dur"], each["name"]) for each in of_gpu)
    computing, busy = covered([span for span in spans if "nccl" not in span[2]]), covered(spans)
    spent: dict[str, float] = defaultdict(float)
    waits: dict[str, float] = defaultdict(float)
    ends, last = spans[0][0], ""
    for start, end, name in spans:
        spent[name] += (end - start) / 1000 / PROFILED
        if start > ends:
            waits[f"{last[:40]} -> {name[:40]}"] += (start - ends) / 1000 / PROFILED
        if end > ends:
            ends, last = end, name
    return {
        "computing_ms": round(computing, 1),
        "only_communicating_ms": round(busy - computing, 1),
        "waiting_ms": round(step_ms - busy, 1),
        "kernels_a_step": len(spans) // PROFILED,
        "longest_ms": longest(spent),
        "longest_waits_ms": longest(waits),
    }


def covered(spans: list[tuple[float, float, str]]) -> float:
    """Milliseconds a step that sorted spans in microseconds cover together."""
    total, ends = 0.0, 0.0
    for start, end, _ in spans:
        total += max(0.0, end - max(start, ends))
        ends = max(end, ends)
    return total / 1000 / PROFILED


def functions(host: cProfile.Profile) -> dict[str, float]:
    """Milliseconds a step of the main thread's functions that took longest themselves; waiting for a GPU is one."""
    stats: Any = pstats.Stats(host)
    spent = {
        f"{Path(file).name}:{name}": values[2] * 1000 / PROFILED for (file, _, name), values in stats.stats.items()
    }
    return longest(spent, 24)


def longest(spent: Mapping[str, float], count: int = 12) -> dict[str, float]:
    """The largest of `spent`, largest first."""
    ranked = sorted(spent.items(), key=lambda item: -item[1])[:count]
    return {name[:90]: round(value, 2) for name, value in ranked}
