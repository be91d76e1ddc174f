"""How much of the default chain is not computing: a clone of HEAD, `dvc repro`, and what the stages say they computed.

Computing is steps of training, merging and its comparison with their loads, and scoring; the rest is imports, models
read and written, hashing, DVC, and what decides and checks.

Run     python -m bench.overhead [--place FOLDER] [--out results.json]     --place keeps the clone and what it made
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


def cloned(place: Path) -> Path:
    """A new clone of HEAD under `place`."""
    clone = place / "clone"
    subprocess.run(["git", "clone", "--quiet", ".", str(clone)], check=True)
    return clone


def chain(clone: Path) -> dict[str, Any]:
    """Seconds of `dvc repro` in a clone, and of them what each stage computed."""
    environment = os.environ | {"XDG_CACHE_HOME": str(clone.with_name("cache")), "DVC_NO_ANALYTICS": "1"}
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=clone, env=environment, check=True)
    wall = time.monotonic() - began
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (clone / "metrics/runs").glob("*.json")]
    stages = {
        record["stage"]: {"seconds": record["process_seconds"], "computing": record.get("compute_seconds", 0.0)}
        for record in sorted(records, key=lambda record: -record["process_seconds"])
    }
    computing = sum(stage["computing"] for stage in stages.values())
    return {"seconds": round(wall, 1), "overhead": round(1 - computing / wall, 3), "stages": stages}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        result = chain(cloned(options.place or Path(scratch)))
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
