"""The host of this process: its cores, memory and threads within the limits it was given, and its allocator."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from homegrown.config.errors import DeviceError


def usable_cores() -> int:
    """Physical cores this process may use: its CPU affinity, hyperthreads counted once, within its cgroup's quota."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = physical_cores(cpus)
    quota = cgroup_cpus()
    return cores if quota is None else max(1, min(cores, int(quota)))


def usable_memory() -> int:
    """Bytes of memory this process may use: the machine's, within its cgroup's limit."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = cgroup_memory()
    return physical if limit is None else min(physical, limit)


def peak_resident() -> int:
    """Most bytes of memory this process held so far.

    On Linux the figure is VmHWM and not that of `getrusage`, which a process inherits from the one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def set_threads(count: int = 0) -> int:
    """Let PyTorch's CPU kernels use `count` threads and return how many that is.

    Args:
        count: threads; 0 takes `usable_cores()`, or fewer if OMP_NUM_THREADS (which torchrun sets) says so.

    Raises:
        DeviceError: `count` is negative.
    """
    if count < 0:
        raise DeviceError(f"threads = {count}: must be 0 (all usable cores) or more")
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if count == 0:
        count = min(usable_cores(), int(limit)) if limit.isdecimal() and int(limit) else usable_cores()
    torch.set_num_threads(count)
    return count


def keep_host_memory() -> bool:
    """Tell glibc's malloc to keep freed memory instead of returning it to the system; True if that was done.

    By default a buffer above 32 MiB is mapped afresh at each allocation and every page of it faults at first touch,
    which costs 5 to 15 % of a CPU training step. With mapping and trimming off, the heap grows to the step's peak and
    stays there for the life of the process. Other allocators than glibc's are left alone.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX of malloc.h
    libc: Any = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    done = [libc.mallopt(option, value) for option, value in ((mmap_max, 0), (trim_threshold, -1), (top_pad, 64 << 20))]
    return all(done)


def cpuinfo(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Keys and values of the first processor in Linux's cpuinfo; empty elsewhere."""
    info: dict[str, str] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), value.strip())
    return info


def cpu_name(info: dict[str, str]) -> str:
    """The processor's name, of the keys in which different architectures give it; else what Python knows."""
    names = (info.get(key) for key in ("model name", "Hardware", "cpu model", "cpu"))
    return next((name for name in names if name), "") or platform.processor() or platform.machine()


def cpu_bf16(info: dict[str, str]) -> bool:
    """Whether the processor has matrix or dot-product instructions for bfloat16 (x86, Arm) that PyTorch uses."""
    flags = (info.get("flags") or info.get("Features") or "").split()
    return torch.backends.mkldnn.is_available() and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def physical_cores(cpus: set[int], sysfs: Path = Path("/sys")) -> int:
    """Cores behind these logical CPUs; each CPU is one where the topology is not known."""

    def siblings(cpu: int) -> str:
        path = sysfs / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        return path.read_text().strip() if path.exists() else str(cpu)

    return len({siblings(cpu) for cpu in cpus})


def cgroup_cpus(proc: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> float | None:
    """The tightest CPU quota above this process, in CPUs; None without one."""
    quotas = []
    for folder in _cgroup_folders("cpu", proc, sysfs):
        version_1, version_2 = folder / "cpu.cfs_quota_us", folder / "cpu.max"
        if version_2.exists():
            quota, period = version_2.read_text().split()
        elif version_1.exists():
            quota, period = version_1.read_text().strip(), (folder / "cpu.cfs_period_us").read_text()
        else:
            continue
        if quota not in ("max", "-1"):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def cgroup_memory(proc: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> int | None:
    """The tightest memory limit above this process, in bytes; None without one."""
    folders = _cgroup_folders("memory", proc, sysfs)
    files = [folder / name for folder in folders for name in ("memory.max", "memory.limit_in_bytes")]
    texts = [path.read_text().strip() for path in files if path.exists()]
    return min((int(text) for text in texts if text != "max"), default=None)


def _cgroup_folders(controller: str, proc: Path, sysfs: Path) -> Iterator[Path]:
    """The control groups of this process, its own first and the root last, in both versions of the interface."""
    groups = proc / "self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = sysfs / "fs/cgroup" / (controller if controllers else "")
        inside = Path(path.lstrip("/"))
        # A container may see its own group as the root while `path` is the host's: what is not there is passed over.
        yield from (mount / folder for folder in (inside, *inside.parents) if (mount / folder).is_dir())
