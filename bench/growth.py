"""How the cost of SFT grows: tokens a second and peak memory over length, batch, model size and rank of the adapter.

Around one point (TinyLlama's shape, 8 rows of 512 tokens, rank 64) one thing at a time is changed. Every point trains
through the stage's own function in a process of its own; weights are random and made on the device. All rows have the
full length, so that no padding is counted. A point that fails, or for which no time is left, is a line that says so.

Run     python -m bench.growth [length batch model rank] [--out results.json]
        Markdown on standard output; on a CPU: rank --model tiny --length 64 --batch 2
"""

import argparse
import json
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from bench.random_model import SHAPES, config_of, enter, write_base, write_data
from bench.training import WARM_UP, section_of
from bench.watch import Watch, resident_peak

Point = dict[str, Any]

CENTRE: Point = {"model": "TinyLlama-1.1B", "length": 512, "batch": 8, "rank": 64}
AXES: dict[str, list[Any]] = {
    "length": [512, 1024, 2048, 4096, 8192],
    "batch": [8, 16, 32, 64, 128],
    "model": ["SmolLM2-135M", "TinyLlama-1.1B", "Llama-3-8B"],
    "rank": [4, 16, 64, 256],
}
COLUMNS = {
    "tokens_per_second": "tokens/s",
    "peak_gib": "peak GiB",
    "seconds_per_step": "seconds a step",
    "passes": "rows a pass x passes",
    "warm_up_seconds": "seconds of warm-up",
}


def points_of(axis: str, centre: Point) -> list[Point]:
    """The points of one axis."""
    return [{**centre, axis: value} for value in AXES[axis]]


def run_point(place: Path, point: Point, steps: int) -> dict[str, Any]:
    """Train `steps` steps in `place`; speed after the warm-up, peak memory, and how a step was computed."""
    import torch

    from stages import sft

    on_gpu = torch.cuda.is_available()
    write_data(place, [2 * point["length"]] * (2 * point["batch"]), [64] * 8)  # truncated at the point's length
    row = {"stage": "sft", "common": {"max_length": point["length"], "batch_size": point["batch"]}}
    lora = {"r": point["rank"], "lora_alpha": 2 * point["rank"], "lora_dropout": 0.0}
    section = section_of(row, {"quantization": "none", "optim": "adamw_torch_fused", "lora": lora}, steps)
    watch = Watch(WARM_UP)
    enter(place)
    with (
        patch("stages.lib.training.run.load_for_training", lambda *_: random_model(point["model"])),
        patch("stages.lib.training.run.report_progress", watch.attach),
        patch("stages.lib.training.decisions.COMPILE_PASSES", 0),  # what a plan takes for a long run
    ):
        facts = sft.sft(section, place / "out")
    plan = facts["plan"]
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else resident_peak()
    assert facts["tokens_per_epoch"] == 2 * point["batch"] * point["length"], "a row is shorter than the point says"
    return {
        **watch.figures(WARM_UP, steps - WARM_UP),
        "peak_gib": round(peak, 1),
        "passes": f"{plan['micro_batch_size']} x {plan['gradient_accumulation_steps']}",
        "plan": plan,
    }


def random_model(shape: str) -> Any:
    """A model of random weights in bfloat16, made where it trains: nothing of its size is written."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return AutoModelForCausalLM.from_config(config_of(shape), dtype=torch.bfloat16)


def measure(place: Path, point: Point, steps: int, seconds: float) -> dict[str, Any]:
    """run_point in a process of its own that gets `seconds`; the point with its figures, or with `failed` and why."""
    command = [sys.executable, "-m", "bench.growth", "--point", json.dumps(point), "--place", str(place)]
    if seconds <= 0:
        return {**point, "failed": "no time left"}
    try:
        done = subprocess.run([*command, "--steps", str(steps)], capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {**point, "failed": f"not ready after {seconds:.0f} s"}
    if done.returncode:
        return {**point, "failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return {**point, **json.loads(done.stdout.splitlines()[-1])}


def table(axis: str, results: list[dict[str, Any]]) -> str:
    """One axis as a Markdown table."""
    lines = [f"| {axis} | {' | '.join(COLUMNS.values())} |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for result in results:
        cells = [result["failed"]] if "failed" in result else [f"{result[key]}" for key in COLUMNS]
        lines.append(f"| {result[axis]} | {' | '.join(cells + [''] * (len(COLUMNS) - len(cells)))} |")
    return "\n".join(lines)


def measure_axes(axes: list[str], centre: Point, steps: int, seconds: float) -> dict[str, list[dict[str, Any]]]:
    """All points of `axes`, each measured once, in `seconds` altogether; each axis is printed when it is complete."""
    ends = time.monotonic() + seconds
    known: dict[str, dict[str, Any]] = {}
    results: dict[str, list[dict[str, Any]]] = {}
    with TemporaryDirectory() as scratch:
        place = Path(scratch) / "growth"
        with redirect_stdout(sys.stderr):
            write_base(place, "tiny")  # tokenizer, template and lineage; the weights are random_model's
        for axis in axes:
            results[axis] = []
            for point in points_of(axis, centre):
                name = json.dumps(point)
                if name not in known:
                    known[name] = measure(place, point, steps, ends - time.monotonic())
                results[axis].append(known[name])
                shown = {key: value for key, value in known[name].items() if key not in ("plan", "losses")}
                print(json.dumps(shown), file=sys.stderr, flush=True)
            others = ", ".join(f"{key} {value}" for key, value in centre.items() if key != axis)
            print(f"\n{others}\n\n{table(axis, results[axis])}", flush=True)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axes", nargs="*", help=f"of {', '.join(AXES)}; all where none is named")
    for axis, value in CENTRE.items():
        parser.add_argument(f"--{axis}", default=value, type=type(value), help=f"{value} while other things change")
    parser.add_argument("--steps", type=int, default=WARM_UP + 10, help=f"{WARM_UP} of them warm-up")
    parser.add_argument("--seconds", type=float, default=460, help="for all points")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--point", help="run it here and print its result as JSON")
    parser.add_argument("--place", type=Path)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(run_point(options.place, json.loads(options.point), options.steps)))
        sys.exit()
    if unknown := set(options.axes) - set(AXES):
        parser.error(f"found {', '.join(sorted(unknown))}, needed some of {', '.join(AXES)}")
    if options.model not in SHAPES:
        parser.error(f"--model: found {options.model}, needed one of {', '.join(SHAPES)}")
    centre = {axis: getattr(options, axis) for axis in CENTRE}
    found = measure_axes(options.axes or list(AXES), centre, options.steps, options.seconds)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
