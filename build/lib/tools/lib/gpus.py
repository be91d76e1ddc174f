"""One GPU for each sweep point, where a machine has several."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

from tools.lib.locks import locked, try_lock

POLL_SECONDS = 1.0


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes; [] on a CPU machine.

    CUDA_VISIBLE_DEVICES decides where it is set, as a cluster's scheduler sets it; else nvidia-smi lists them all.
    """
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    if which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    return [str(index) for index, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


@contextmanager
def one_gpu(place: Path) -> Iterator[tuple[str, int | None]]:
    """Give the name of a GPU that no other point of this machine holds, and its lock's descriptor; wait for one.

    "" and None where there is no choice to make: none or one GPU. `place` holds the lock files, by machine; a lock
    is let go when the last process that inherited its descriptor ends, so a GPU is never shared with an orphan.
    """
    gpus = visible_gpus()
    if len(gpus) < 2:
        yield "", None
        return
    machine = os.uname().nodename
    while True:
        for gpu in gpus:
            if (descriptor := try_lock(place / f"gpu-{machine}-{gpu}.lock")) is not None:
                with locked(descriptor):
                    yield gpu, descriptor
                return
        time.sleep(POLL_SECONDS)
