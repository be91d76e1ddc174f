"""What training costs by the precision of its weights: peak memory and seconds a step of SFT with the default recipe.

Each is `python -m stages.sft` in a process of its own, on the same rows in the same order; figures are from its output
and its run record. 4-bit weights keep their 16-bit values beside them where memory allows (sft.dequantize_once), so
that the fastest way with them takes more memory than 16-bit weights do.
Needs   models/base and data/prepared (run `make repro` once)
Run     python -m bench.precision [steps] [sft.threads=1 …]
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages.lib.hardware import describe

CHOICES = {
    "4 bit (nf4)": ["sft.quantization=nf4", "sft.dequantize_once=never"],
    "4 bit (nf4) with 16-bit values beside": ["sft.quantization=nf4", "sft.dequantize_once=always"],
    "8 bit (int8)": ["sft.quantization=int8"],
    "16 bit": ["sft.quantization=none"],
    "all weights (method=full)": ["sft.quantization=none", "sft.method=full"],
}


def measure(overrides: list[str], steps: int) -> dict[str, Any]:
    """The run record of an SFT of `steps` steps, with its mean seconds a step."""
    with TemporaryDirectory() as folder:
        settings = [f"sft.max_steps={steps}", f"sft.logging_steps={steps}", f"hydra.run.dir={folder}"]
        command = [sys.executable, "-m", "stages.sft", *settings, *overrides]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        record = json.loads((Path(folder) / "metrics/runs/sft.json").read_text(encoding="utf-8"))
    (pace,) = re.findall(rf"step {steps} of {steps}, .* ([\d.]+) s a step", done.stdout)
    return {**record, "seconds_per_step": float(pace)}


def cpu_name() -> str:
    """The processor, as Linux names it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    more = sys.argv[2:]
    print(f"{time.strftime('%Y-%m-%d', time.gmtime())}, {cpu_name()}, {describe()}, {count} steps {' '.join(more)}\n")
    print("| weights | peak MiB | seconds a step |")
    print("| --- | --- | --- |")
    for name, choice in CHOICES.items():
        found = measure([*choice, *more], count)
        peak = found.get("gpu_peak_memory_mib", found["peak_memory_mib"])
        print(f"| {name} | {peak} | {found['seconds_per_step']:.2f} |", flush=True)
