"""Steps of the default SFT on quiet cores and beside busy programs, by how long OpenMP's waiting threads spin.

A thread that spins takes a core from the one that it waits for; one that sleeps at once is woken late. Which count of
spins loses little both ways is asked here.

Needs   models/base and data/prepared (run `make repro` once)
Run     python -m bench.busy [--cores 0,1] [--steps 14] [--counts unset,1000,30000] [--repeat 2]
"""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from stages.lib.hardware import describe

UNBOUNDED = "unset"
"""What OpenMP does by itself."""


@contextmanager
def busy(cores: set[int], count: int) -> Iterator[None]:
    """`count` programs that compute all the time, on `cores`."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        for each in running:
            os.sched_setaffinity(each.pid, cores)
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


def seconds_per_step(steps: int, count: str) -> float:
    """Median seconds of a step in a process of its own whose threads spin `count` times."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_", "KMP_"))}
    if count != UNBOUNDED:
        environment["GOMP_SPINCOUNT"] = count
    command = [sys.executable, "-m", "bench.fast_path", str(steps), ""]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main(options: argparse.Namespace) -> None:
    cores = {int(core) for core in options.cores.split(",")} if options.cores else os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    print(describe(), f"{len(cores)} cores", flush=True)
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(options.repeat):  # in turn, since machines drift
        for count in options.counts.split(","):
            for programs in (0, len(cores)):
                with busy(cores, programs):
                    found[count, programs].append(seconds_per_step(options.steps, count))
                print(json.dumps({"spins": count, "beside": programs, "seconds": found[count, programs]}), flush=True)
    print(f"| spins | quiet, s a step | beside {len(cores)} busy programs |\n| --- | --- | --- |")
    for count in options.counts.split(","):
        print(f"| {count} | {min(found[count, 0]):.2f} | {min(found[count, len(cores)]):.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", help="numbers, such as 0,1; all usable ones by default")
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--counts", default=f"{UNBOUNDED},1000,3000,10000,30000")
    parser.add_argument("--repeat", type=int, default=2)
    main(parser.parse_args())
