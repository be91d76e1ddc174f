"""What this machine offers, found at run time; nothing here changes what is trained."""

import ctypes
import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stages.lib.every_stage.errors import UserError
from stages.lib.schema.choices import Dtype


def usable_cores() -> int:
    """CPU cores that this process may use: its affinity, cut by the cgroup's quota (cgroup v2 cpu.max)."""
    cores = len(os.sched_getaffinity(0))
    quota_file = Path("/sys/fs/cgroup/cpu.max")
    if quota_file.is_file():
        quota, period = quota_file.read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def set_up_cpu(threads: int, processes: int = 1) -> int:
    """Set torch's CPU threads to `threads`, or for 0 to all usable cores, and keep freed memory for reuse.

    So many `processes` of this machine share the cores. Returns the number of threads of this one.
    """
    import torch

    keep_freed_memory()
    count = threads or max(1, usable_cores() // processes)
    torch.set_num_threads(count)
    return count


def keep_freed_memory() -> None:
    """Tell glibc's allocator to reuse memory that tensors gave back rather than return it to the system.

    By default every tensor beyond 32 MiB is mapped anew and its pages are cleared by the kernel one by one, a fifth
    of a training step on a CPU (bench/fast_path.py). Elsewhere than on glibc nothing changes.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_top_pad, 256 * 2**20)


def return_freed_memory() -> None:
    """Have glibc's allocator give the system what is free between tensors; elsewhere nothing changes.

    Rows of ever-changing lengths leave holes that the next tensors don't fit into: kept for reuse, they grew DPO's
    process from 2.5 to 3.6 GiB in 70 steps (`dvc repro`, SmolLM2-135M, 2026-11-27).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def available_memory() -> int:
    """Bytes that this process can still take: the system's available memory, cut by the cgroup's limit (v2)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and (most := limit.read_text().strip()) != "max":
        statistics = Path("/sys/fs/cgroup/memory.stat").read_text().split()
        cached = int(statistics[statistics.index("inactive_file") + 1])  # file pages, given up on demand
        free = min(free, int(most) - int(used.read_text()) + cached)
    return free


@dataclass(frozen=True)
class Hardware:
    """What a plan depends on, of the device that trains."""

    device: str  # cuda or cpu
    total_memory: int  # bytes; on a CPU what this process can still take
    free_memory: int  # bytes
    bfloat16: bool  # in hardware
    capability: tuple[int, int] = (0, 0)  # of an NVIDIA GPU
    compiler: bool = False  # torch.compile can build kernels for the GPU
    processes: int = 1  # that share a step, each with a device like this one
    sharded: bool = False  # the weights are sharded over them (FSDP)


def find_hardware() -> Hardware:
    """The hardware of this process: its GPU, the first visible one unless it was set to another, else its CPU."""
    import torch

    if device() == "cuda":
        free, total = torch.cuda.mem_get_info()
        capability = torch.cuda.get_device_capability()
        # Triton builds its launchers with a C compiler, and makes code for capability 7.0 and newer.
        compiler = bool(find_spec("triton") and (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")))
        return Hardware("cuda", total, free, capability >= (8, 0), capability, compiler and capability >= (7, 0))
    found = torch.cpu.get_capabilities()
    memory = available_memory()
    return Hardware("cpu", memory, memory, bool(found.get("avx512_bf16") or found.get("amx_bf16")))


def device() -> str:
    """ "cuda" where a GPU is visible, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def nvidia_gpu() -> bool:
    """Whether torch sees an NVIDIA GPU. Where there is no driver the answer comes without importing torch."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return device() == "cuda"


def resolve_dtype(dtype: Dtype, hardware: Hardware | None = None) -> Any:
    """The torch dtype to compute in.

    auto is bfloat16 on GPUs of capability 8.0 and newer and on CPUs with bfloat16 instructions, float16 on older
    GPUs, float32 on other CPUs; `hardware` is this process's unless given. Raises UserError for float16 on a CPU,
    where it would be ignored silently.
    """
    import torch

    hardware = hardware or find_hardware()
    if dtype is Dtype.float16 and hardware.device == "cpu":
        raise UserError("dtype: found float16 on a CPU, which can't train in it; needed a GPU, or dtype=auto")
    if dtype is not Dtype.auto:
        return getattr(torch, dtype.value)
    if hardware.bfloat16:
        return torch.bfloat16
    return torch.float16 if hardware.device == "cuda" else torch.float32


def describe() -> dict[str, Any]:
    """Hardware facts for the run record."""
    import torch

    facts: dict[str, Any] = {"device": device(), "cores": usable_cores(), "torch": torch.__version__}
    if device() == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
        facts["gpu_peak_memory_mib"] = torch.cuda.max_memory_allocated() // 2**20
    return facts
