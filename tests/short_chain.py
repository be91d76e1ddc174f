"""A chain that takes DVC, Git and Hydra seriously and training not at all: for what a sweep does around its points.

The config stage, conf/ and the tools are the repository's own. The other stages are scripts of a few lines with the
names, outputs and run records that the tools look at; a score that follows from the values shows that each point ran
with its own. CHAIN_LOG names a file that gets a line whenever one of them begins.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from conftest import ROOT

DVC_YAML = """
stages:
  config:
    cmd: python -m stages.config
    deps: [conf, params.yaml, stages/config.py]
    outs: [params.lock.yaml: {cache: false}]
  prepare-base:
    cmd: python chain/prepare_base.py
    deps: [chain/prepare_base.py, data/raw]
    params: [params.lock.yaml: [prepare_base]]
    outs: [models/base]
  sft:
    cmd: python chain/sft.py
    deps: [chain/sft.py, models/base]
    params: [params.lock.yaml: [sft]]
    outs: [models/sft]
    plots: [metrics/sft_log.csv: {cache: false}]
  merge:
    cmd: python chain/merge.py
    deps: [chain/merge.py, models/sft]
    outs: [models/sft-merged]
  evaluate:
    cmd: python chain/evaluate.py
    deps: [chain/evaluate.py, models/sft-merged]
    params: [params.lock.yaml: [sft]]
    metrics:
      - metrics/eval.json: {cache: false}
      - metrics/eval_detail.json: {cache: false}
"""

COMMON = """
import json, os, sys, time
from pathlib import Path
import psutil
import yaml

sys.path.insert(0, "")
from stages.lib.every_stage.entry import records

NAME = Path(__file__).stem
VALUES = yaml.safe_load(Path("params.lock.yaml").read_text(encoding="utf-8"))["sft"]
R, RATE = VALUES["lora"]["r"], VALUES["learning_rate"]

def note(event):
    base = Path("models/base/text.txt")
    links = base.stat().st_nlink if base.exists() else 0
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    line = {"event": event, "stage": NAME, "r": R, "rate": RATE, "gpu": gpu, "links": links}
    with open(os.environ["CHAIN_LOG"], "a", encoding="utf-8") as file:
        file.write(json.dumps(line | {"time": time.time()}) + "\\n")

def done(seconds=1.0):
    note("end")
    records(Path()).mkdir(parents=True, exist_ok=True)
    record = {"stage": NAME.replace("_", "-"), "seconds": seconds, "peak_memory_mib": 100 + R}
    record["process_seconds"] = time.time() - psutil.Process().create_time()
    (records(Path()) / f"{NAME}.json").write_text(json.dumps(record), encoding="utf-8")

note("begin")
"""

SCRIPTS = {
    "prepare_base": """
        Path("models/base").mkdir(parents=True)
        text = "".join(path.read_text(encoding="utf-8") for path in sorted(Path("data/raw").glob("*.txt")))
        Path("models/base/text.txt").write_text(text, encoding="utf-8")
        time.sleep(1)
        done()
    """,
    "sft": """
        import numpy
        from safetensors.numpy import save_file

        time.sleep(float(os.environ.get("CHAIN_SECONDS", "0")))
        if R == 13:
            sys.exit("sft: found an unlucky rank, needed another; 다른 값을 고르세요")
        Path("models/sft").mkdir(parents=True)
        save_file({"a": numpy.full((R, 4), RATE, "float32")}, "models/sft/adapter_model.safetensors")
        Path("models/sft/base.txt").write_bytes(Path("models/base/text.txt").read_bytes())
        Path("metrics").mkdir(exist_ok=True)
        Path("metrics/sft_log.csv").write_text(f"step,loss\\n1,9.0\\n2,{R / 10}\\n", encoding="utf-8")
        done(seconds=R)
    """,
    "merge": """
        Path("models/sft-merged").mkdir(parents=True)
        Path("models/sft-merged/text.txt").write_bytes(Path("models/sft/base.txt").read_bytes())
        time.sleep(float(os.environ.get("CHAIN_SECONDS", "0")))
        done()
    """,
    "evaluate": """
        score = R / 100 + RATE + len(Path("models/sft-merged/text.txt").read_text(encoding="utf-8")) / 1e6
        cell = {"value": score, "low": score - 0.03, "high": score + 0.03, "n": 9, "groups": 9}
        figures = {"dpo": {"seen": {"key_exact": cell}, "control": {"perplexity": cell}}}
        Path("metrics/eval_detail.json").write_text(json.dumps({"models": figures}), encoding="utf-8")
        Path("metrics/eval.json").write_text(json.dumps({"dpo": {"seen": {"key_exact": score}}}), encoding="utf-8")
        done()
    """,
}


class ShortChain:
    """The short chain in a repository of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory.parent / f"{directory.name}.log"
        tracked = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
        )
        for name in tracked.stdout.splitlines():
            if name.startswith(("stages/", "conf/", "tools/", ".gitignore", ".dvcignore", "params.yaml")):
                self.put(name, (ROOT / name).read_text(encoding="utf-8"))
        self.put("dvc.yaml", DVC_YAML)
        self.put("data/raw/a.txt", "달여울")
        for name, script in SCRIPTS.items():
            self.put(f"chain/{name}.py", COMMON + textwrap.dedent(script))
        self.run("git", "init", "--quiet")
        self.run("git", "config", "user.name", "test")
        self.run("git", "config", "user.email", "test@graft.example")
        self.run("dvc", "init", "--quiet")
        self.run("dvc", "config", "core.analytics", "false")
        self.run("dvc", "config", "cache.type", "hardlink,symlink,copy")
        self.commit("start")

    def put(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def environment(self, **more: str) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "CHAIN_LOG": str(self.log), **more}

    def run(self, *words: str, fails: bool = False, **environment: str) -> str:
        """A command's output. Asserts success, or failure with `fails`."""
        done = subprocess.run(
            words, cwd=self.directory, env=self.environment(**environment), capture_output=True, text=True
        )
        output = done.stdout + done.stderr
        assert bool(done.returncode) == fails, output
        return output

    def sweep(self, *words: str, fails: bool = False, **environment: str) -> str:
        return self.run(sys.executable, "-m", "tools.sweep", "--multirun", *words, fails=fails, **environment)

    def events(self, stage: str, event: str = "begin") -> list[dict]:
        """What a stage noted, in time's order."""
        if not self.log.exists():
            return []
        lines = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line["stage"] == stage and line["event"] == event]

    def rows(self) -> list[dict]:
        """The rows of the latest sweep."""
        latest = max(self.directory.glob("multirun/sweep/*/points.json"))
        return json.loads(latest.read_text(encoding="utf-8"))["rows"]

    def fresh(self, directory: Path) -> "ShortChain":
        """A copy at another place."""
        shutil.copytree(self.directory, directory, symlinks=True)
        copy = object.__new__(ShortChain)
        copy.directory, copy.log = directory, directory.parent / f"{directory.name}.log"
        return copy
