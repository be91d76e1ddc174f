"""Training steps in several processes, one for each GPU, against one process: speed, losses and memory, in one run.

The same rows, batch and random weights; each variant is launched by accelerate as the stages do it, and trains through
the stage's own function. "by the stage" goes the whole way of a user: the stage launches itself.

Run     python -m bench.several [ROW …] [--processes 2] [--sharing ddp|fsdp] [--weights none|nf4] [--graphs]
                                [--shape TinyLlama-1.1B] [--warm-up 25] [--steps 20] [--out results.json]
                                [--keep FOLDER] [--profile]
        ROW is one of sft-512, sft-512-large, dpo, dpo-large, stage (all unless given)
On a CPU: --shape tiny --warm-up 2 --steps 4. Models that are sharded: sft-512 dpo --shape Llama-3-8B --sharing fsdp
--warm-up 5 --steps 10, once with --weights none, once with --weights nf4.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import psutil

from bench.random_model import SHAPES, enter, write_base, write_data
from bench.training import lengths_of, section_of, stand_in_for_a_merge
from bench.watch import Profiled, Watch, resident_peak
from stages.lib.training.launcher import environment, visible_gpus
from stages.lib.training.processes import from_all

ROWS: dict[str, dict[str, Any]] = {
    "sft-512": {"stage": "sft", "lengths": "chats", "common": {"max_length": 512, "batch_size": 8}},
    "sft-512-large": {"stage": "sft", "lengths": "chats", "common": {"max_length": 512, "batch_size": 64}},
    "dpo": {"stage": "dpo", "lengths": "pairs", "common": {"max_length": 512, "batch_size": 8}},
    "dpo-large": {"stage": "dpo", "lengths": "pairs", "common": {"max_length": 512, "batch_size": 32}},
    "stage": {"stage": "sft", "lengths": "chats", "common": {"max_length": 512, "batch_size": 8}},
}
BY_THE_STAGE = "stage"
CONFIGS = Path("conf/accelerate").absolute()


def values_of(sharing: str, weights: str, graphs: bool, processes: int) -> dict[str, Any]:
    """What a variant sets beside its row."""
    on_gpu = visible_gpus() > 0
    sharded = processes > 1 and sharing == "fsdp"
    fast = "always" if on_gpu and sharing == "ddp" else "never"
    return {
        "quantization": weights,
        "optim": "adamw_torch_fused",
        "torch_compile": fast,
        "cuda_graphs": fast if graphs else "never",
        # FSDP keeps 4-bit weights as they are: so does the one process that it is compared with
        "dequantize_once": "never" if sharing == "fsdp" else "auto",
        "distributed": ("fsdp" if sharded else "ddp") if processes > 1 else "none",
    }


class WatchAll(Watch):
    """What happens in a run, in all of its processes: tokens of each pass, peak memory in GiB, a profile if taken."""

    everywhere: list[tuple[list[int], float, dict[str, Any]]]

    def attach(self, trainer: Any) -> None:
        """Stand in for report_progress on a trl trainer."""
        from transformers import TrainerCallback

        super().attach(trainer)
        watch = self

        class End(TrainerCallback):
            def on_train_end(self, *_: Any, **__: Any) -> None:
                watch.everywhere = from_all((watch.tokens, peak_gib(), getattr(watch, "found", {})))

        trainer.add_callback(End())


class ProfileAll(WatchAll, Profiled):
    """What happens in a run, and where the time of each process goes in some of its steps."""


def peak_gib() -> float:
    """Peak memory of this process's GPU, else of the process, in GiB."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else resident_peak()


def run_variant(place: Path, told: dict[str, Any]) -> dict[str, Any]:
    """Train in `place` as `told`, in this process alone or in this one of several; figures of all of them."""
    from stages import dpo, sft

    row, warm_up, steps = ROWS[told["row"]], told["warm_up"], told["steps"]
    section = section_of(row, told["values"], warm_up + steps)
    module: Any = sft if row["stage"] == "sft" else dpo
    watch = ProfileAll(warm_up) if told["profile"] else WatchAll(warm_up)
    enter(place)
    if module is dpo:
        stand_in_for_a_merge(place)
    with patch("stages.lib.training.run.report_progress", watch.attach):
        facts = getattr(module, row["stage"])(section, place / "out" / told["variant"].replace(" ", "_"))
    own = watch.figures(warm_up, steps)
    passes = len(watch.tokens) // (warm_up + steps)
    counted = sum(sum(tokens[passes * warm_up :][: passes * steps]) for tokens, _, _ in watch.everywhere)
    left_out = ("why", "estimated_mib", "free_mib", "optim", "longest", "pad_to_multiple_of")
    return {
        **own,
        "tokens_per_second": round(counted / (own["seconds_per_step"] * steps)),
        "peak_gib": [round(peak, 1) for _, peak, _ in watch.everywhere],
        "estimated_gib": round(facts["plan"]["estimated_mib"] / 1024, 1),
        "plan": {key: value for key, value in facts["plan"].items() if key not in left_out},
        "profiles": [found for _, _, found in watch.everywhere if found],
    }


def run_stage(place: Path, told: dict[str, Any]) -> dict[str, Any]:
    """Train as a user would: the stage launches itself. Its losses, and its seconds in all."""
    from stages import sft

    section = section_of(ROWS[told["row"]], told["values"], told["warm_up"])
    enter(place)
    if not Path("conf").exists():
        Path("conf").symlink_to(CONFIGS.parent)
    began = time.time()
    out = place / "out" / told["variant"].replace(" ", "_")
    facts = sft.sft(section, out)
    with (out / "metrics/sft_log.csv").open(encoding="utf-8") as file:
        losses = [round(float(line["loss"]), 4) for line in csv.DictReader(file)]
    return {"seconds": round(time.time() - began, 1), "losses": losses[:20], "processes": facts["plan"]["processes"]}


def launched(
    scratch: Path, place: Path, told: dict[str, Any], processes: int, sharing: str, timeout: float
) -> dict[str, Any] | None:
    """The result of one variant, run in processes of its own; None where it failed, which is printed.

    It is ended after `timeout` seconds.
    """
    asked, answer = scratch / "told.json", scratch / "result.json"
    asked.write_text(json.dumps(told), encoding="utf-8")
    answer.unlink(missing_ok=True)
    command = [sys.executable]
    if processes > 1 and told["row"] != BY_THE_STAGE:
        command += ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{sharing}.yaml")]
        command += ["--num_processes", str(processes), "--main_process_port", "0"]
    command += ["-m", "bench.several", "--told", str(asked), "--place", str(place)]
    log = scratch / "log.txt"
    with log.open("w") as written:
        running = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT, env=environment())
        try:
            running.wait(timeout)
        except subprocess.TimeoutExpired:
            for process in [*psutil.Process(running.pid).children(recursive=True), running]:
                process.kill()
            running.wait()
    if running.returncode or not answer.is_file():
        print(f"{told['row']} {told['variant']}: failed\n{log.read_text(errors='replace')[-6000:]}", flush=True)
        return None
    return json.loads(answer.read_text(encoding="utf-8"))


def compare(result: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
    """How much faster than one process, and how far its losses are from those."""
    apart = [abs(a - b) for a, b in zip(result["losses"], one["losses"], strict=False)]
    scaling = {}
    if "tokens_per_second" in result:
        scaling = {"scaling": round(result["tokens_per_second"] / one["tokens_per_second"], 3)}
    return {**scaling, "losses_apart": {"most": round(max(apart), 4), "mean": round(sum(apart) / len(apart), 4)}}


def variants(row: str, processes: int, graphs: bool) -> list[tuple[str, int, bool]]:
    """Names, processes, and whether passes are replayed, of a row's variants; the first is what others are held to."""
    if row == BY_THE_STAGE:
        return [("one process", 1, False), ("by the stage", processes, False)]
    found = [("one process", 1, False), (f"{processes} processes", processes, False)]
    if graphs:
        found += [("one process, graphs", 1, True), (f"{processes} processes, graphs", processes, True)]
    return found


def main(options: argparse.Namespace) -> None:
    results = []
    with TemporaryDirectory() as scratch:
        place = (options.keep or Path(scratch)).absolute() / options.shape
        if not (place / "models/base").exists():
            write_base(place, options.shape)
        for name in options.rows or ROWS:
            row, in_all = ROWS[name], options.warm_up + options.steps
            write_data(place, *lengths_of(row["lengths"], min(4096, row["common"]["batch_size"] * in_all)))
            one: dict[str, Any] | None = None
            for variant, processes, graphs in variants(name, options.processes, options.graphs):
                values = values_of(options.sharing, options.weights, graphs, processes)
                if name == BY_THE_STAGE:
                    chosen = {"distributed": "auto", "processes": processes} if processes > 1 else {}
                    values |= {"torch_compile": "never", "logging_steps": 1, **chosen}
                told = {"row": name, "variant": variant, "values": values}
                told |= {"warm_up": options.warm_up, "steps": options.steps, "profile": options.profile}
                result = launched(Path(scratch), place, told, processes, options.sharing, options.timeout)
                if result is None:
                    continue
                one = one or result
                result = {"row": name, "variant": variant, **result, **compare(result, one)}
                results.append(result)
                print(json.dumps({key: value for key, value in result.items() if key != "losses"}), flush=True)
                print("   losses", result["losses"], flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--sharing", default="ddp", choices=["ddp", "fsdp"])
    parser.add_argument("--weights", default="none", choices=["none", "nf4"])
    parser.add_argument("--graphs", action="store_true", help="passes replayed as CUDA graphs, too")
    parser.add_argument("--shape", default="TinyLlama-1.1B", choices=SHAPES)
    parser.add_argument("--warm-up", type=int, default=25)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--timeout", type=float, default=300, help="seconds of one variant")
    parser.add_argument("--profile", action="store_true", help="where the time of each process goes")
    parser.add_argument("--keep", type=Path, help="where the base is written, or taken from if it is there")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--told", type=Path, help="one variant, run here")
    parser.add_argument("--place", type=Path)
    options = parser.parse_args()
    if not options.told:
        main(options)
        sys.exit()
    told = json.loads(options.told.read_text(encoding="utf-8"))
    found = (run_stage if told["row"] == BY_THE_STAGE else run_variant)(options.place, told)
    options.told.with_name("result.json").write_text(json.dumps(found), encoding="utf-8")
