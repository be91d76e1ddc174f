"""The notebook's recipe as a T4 would run it: a GPU that says it has capability 7.5, with every tensor's type watched.

A copy of the repository with `model: tinyllama-1.1b`, `recipe: notebook`, `profile: t4`, and what the Hub would give
made here (notebook_chain.py). Every stage runs in a process in which torch says 7.5 and no bfloat16; what makes a
bfloat16 tensor on the GPU all the same is counted by name. Speed means nothing here: the card is another.

Run     python -m bench.t4 [--shape TinyLlama-1.1B] [--set sft.max_steps=20 dpo.max_steps=10 …] [--out results.json]
"""

import argparse
import csv
import json
import math
import os
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.notebook_chain import CHATS, HELD_OUT, ask_for_the_notebook, write_chats
from bench.random_model import SHAPES, write_source
from bench.recipes import copied, stages_of
from bench.training import lengths_of

T4 = (7, 5)
STEPS = ["sft.max_steps=20", "dpo.max_steps=10", "evaluate.max_new_tokens=8"]


class Watch(TorchDispatchMode):
    """Counts by name what makes bfloat16 tensors on the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.is_cuda and value.dtype is torch.bfloat16:
                self.found[str(function)] += 1
        return result


def as_t4(module: str, out: Path) -> None:
    """Run a stage's module in this process, which sees a T4; write what made bfloat16 tensors to `out`."""
    torch.cuda.get_device_capability = lambda *_: T4
    torch.cuda.is_bf16_supported = lambda *_, **__: False
    sys.argv = [module]
    watch = Watch()
    try:
        with watch:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        out.write_text(json.dumps(watch.found), encoding="utf-8")


def chain(place: Path) -> dict[str, dict[str, Any]]:
    """Run every stage of the copy; what each said of itself and what was seen of it."""
    found = {}
    paths = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    for name in stages_of(place):
        environment = os.environ | {"PYTHONPATH": paths, "XDG_CACHE_HOME": str(place / "cache"), "DVC_STAGE": name}
        module, out = f"stages.{name.replace('-', '_')}", place / f"{name}.bf16.json"
        command = [sys.executable, "-m", "bench.t4", "--stage", module, "--out", str(out)]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
        record = place / f"metrics/runs/{name.replace('-', '_')}.json"
        said = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        found[name] = {"dtype": said.get("dtype"), "quantization": said.get("quantization"),
                       "gpu_peak_memory_mib": said.get("gpu_peak_memory_mib"), "plan": said.get("plan"),
                       "bfloat16": json.loads(out.read_text(encoding="utf-8"))}  # fmt: skip
        log = place / f"metrics/{name}_log.csv"
        if log.is_file():
            with log.open(encoding="utf-8", newline="") as file:
                losses = [float(row["loss"]) for row in csv.DictReader(file)]
            found[name] |= {"losses": losses, "finite": all(map(math.isfinite, losses))}
        print(name, json.dumps({key: value for key, value in found[name].items() if key != "plan"}), flush=True)
    return found


def main(options: argparse.Namespace, place: Path) -> dict[str, dict[str, Any]]:
    copied(place / "copy")
    write_source(place / "source", options.shape)
    write_chats(place / "copy" / CHATS, lengths_of("chats", options.chats + HELD_OUT)[0])
    ask_for_the_notebook(place / "copy", place / "source", ["profile=t4", *STEPS, *options.set])
    return chain(place / "copy")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="TinyLlama-1.1B", choices=SHAPES)
    parser.add_argument("--chats", type=int, default=200)
    parser.add_argument("--set", nargs="*", default=[], help="values of params.yaml")
    parser.add_argument("--stage", help="run this module alone, as the chain does")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.stage:
        as_t4(options.stage, options.out)
        sys.exit()
    with TemporaryDirectory() as scratch:
        result = main(options, Path(scratch).absolute())
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
