"""Devices: which one, what it can do, how fast it is, how much it uses. The only file that may name a vendor.

Everything goes through `torch.accelerator` and the module that PyTorch or a plugin registers for a device type
(`torch.cuda`, `torch.xpu`, `torch.npu`, ...). Plugins such as torch_npu load themselves with `import torch`, so no
vendor's package is imported here. The host's side is in `host`, energy in `energy`; both are offered here too.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from homegrown import host
from homegrown.config.errors import DeviceError
from homegrown.energy import EnergyMeter, EnergyReading
from homegrown.host import keep_host_memory, set_threads, usable_cores

__all__ = [
    "COLLECTIVE_BACKENDS",
    "DeviceError",
    "DeviceInfo",
    "EnergyMeter",
    "EnergyReading",
    "Features",
    "available",
    "collective_backend",
    "collective_backends",
    "connect_when_used",
    "describe",
    "has_sparse",
    "host_zeros",
    "keep_host_memory",
    "measure_bandwidth",
    "measure_peak",
    "peak_memory",
    "pick",
    "seed_all",
    "set_threads",
    "stay_on_loopback",
    "synchronize",
    "usable_cores",
]

COLLECTIVE_BACKENDS = {
    "cpu": "gloo",
    "cuda": "nccl",  # builds for ROCm keep both names
    "hpu": "hccl",
    "mlu": "cncl",
    "mps": "gloo",
    "musa": "mccl",
    "npu": "hccl",
    "xpu": "xccl",
}
"""Backend of `torch.distributed` for each device type whose plugin has registered none."""


# Which device


def pick(name: str = "auto") -> torch.device:
    """The device called `name`, made the current one of its type.

    Args:
        name: `auto` (the accelerator that PyTorch finds, else the CPU), or a name such as `cpu`, `cuda:1` or `npu`.

    Returns:
        The device; an accelerator always with its index.

    Raises:
        DeviceError: this machine has no such device; the message lists those it has.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    wanted = (accelerator or torch.device("cpu")) if name == "auto" else _parse(name)
    if wanted.type == "cpu" and not wanted.index:
        return torch.device("cpu")
    if accelerator is None or wanted.type != accelerator.type:
        raise _no_device(name, "not on this machine, or not in this build of PyTorch")
    if wanted.index is not None and wanted.index >= torch.accelerator.device_count():
        raise _no_device(name, "no device has that index")
    index = torch.accelerator.current_device_index() if wanted.index is None else wanted.index
    torch.accelerator.set_device_index(index)
    return torch.device(wanted.type, index)


def available() -> list[str]:
    """Names of this machine's devices that `pick` accepts, the CPU first."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ["cpu"]
    return ["cpu", *(f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count()))]


def collective_backend(device: torch.device) -> str:
    """Name of the `torch.distributed` backend for tensors on `device`.

    What PyTorch or a plugin has registered comes first, then `COLLECTIVE_BACKENDS`.

    Raises:
        DeviceError: no backend is known for this device type.
    """
    try:
        backend: str | None = torch.distributed.get_default_backend_for_device(device)
    except ValueError:  # nothing is registered
        backend = None
    if backend in (None, "fake"):  # PyTorch's testing tools register a backend that moves nothing
        backend = COLLECTIVE_BACKENDS.get(device.type)
    if backend is None:
        raise DeviceError(
            f"device type {device.type!r} has no collective backend: its plugin registers none with torch.distributed; "
            f"known ones are those of {', '.join(COLLECTIVE_BACKENDS)}"
        )
    return backend


def collective_backends(device: torch.device) -> str:
    """What `torch.distributed.init_process_group` is to be told, so that tensors on `device` and on the host travel.

    An accelerator's backend is joined by that of the CPU, for objects and checkpoints, which live on the host.

    Raises:
        DeviceError: no backend is known for this device type.
    """
    host_backend = collective_backend(torch.device("cpu"))
    if device.type == "cpu":
        return host_backend
    return f"cpu:{host_backend},{device.type}:{collective_backend(device)}"


def connect_when_used() -> None:
    """Let the CPU's collective backend connect two processes when they first talk, not all with all from the start.

    For groups made from now on in this process. Tens of thousands of processes cannot hold a connection to each other.
    """
    os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")


def stay_on_loopback() -> None:
    """Let the CPU's collective backend listen on the loopback interface alone: all of this process's peers are here.

    Before `torch.distributed` is initialised. Where the interface has no name that begins with `lo`, nothing changes.
    """
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if names:
        os.environ["GLOO_SOCKET_IFNAME"] = names[0]


def seed_all(seed: int) -> None:
    """Seed every global random state a library may draw from: Python's, NumPy's, PyTorch's on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _parse(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError:
        raise _no_device(name, "PyTorch knows no such type, or the plugin that adds it is not installed") from None


def _no_device(name: str, why: str) -> DeviceError:
    return DeviceError(f"device {name!r}: {why}; this machine has: {', '.join(available())}")


# What it is


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a device can do, as it says itself. Never decided by timing: two runs on a machine must choose alike."""

    bf16_fast: bool
    """It multiplies bfloat16 matrices in hardware, faster than float32. A CPU says so by its flags (AVX512_BF16,
    AMX_BF16, Arm BF16), an accelerator through its PyTorch module, emulation not counted."""
    architecture: str
    """Instruction set of PyTorch's CPU kernels, or the accelerator's architecture: it decides the last bits."""


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """Facts about a device, for the run's record."""

    type: str
    """Device type, as PyTorch names it."""
    name: str
    """Name of the chip."""
    memory_bytes: int
    """Memory of the device, or of the host within this process's limit; 0 if the device does not say."""
    cores: int
    """CPU cores this process may use, whatever the device."""
    features: Features


def describe(device: torch.device) -> DeviceInfo:
    """What `device` is and can do."""
    if device.type == "cpu":
        info = host.cpuinfo()
        features = Features(bf16_fast=host.cpu_bf16(info), architecture=torch.backends.cpu.get_cpu_capability())
        name, memory = host.cpu_name(info), host.usable_memory()
    else:
        module: Any = torch.get_device_module(device)
        features = Features(bf16_fast=_multiplies_bf16(module), architecture=_architecture(module, device))
        name = module.get_device_name(device) if hasattr(module, "get_device_name") else device.type
        memory = _accelerator_memory(module, device)
    return DeviceInfo(type=device.type, name=name, memory_bytes=memory, cores=usable_cores(), features=features)


def _accelerator_memory(module: Any, device: torch.device) -> int:
    try:
        return torch.accelerator.get_memory_info(device)[1]
    except RuntimeError:  # the device keeps no such count
        return module.recommended_max_memory() if hasattr(module, "recommended_max_memory") else 0


def _multiplies_bf16(module: Any) -> bool:
    if not hasattr(module, "is_bf16_supported"):
        return False
    try:
        return bool(module.is_bf16_supported(including_emulation=False))
    except TypeError:  # a module without the notion of emulation
        return bool(module.is_bf16_supported())


def _architecture(module: Any, device: torch.device) -> str:
    properties: Any = module.get_device_properties(device) if hasattr(module, "get_device_properties") else None
    if hasattr(properties, "gcnArchName"):
        return str(properties.gcnArchName)
    return f"{properties.major}.{properties.minor}" if hasattr(properties, "major") else ""


def has_sparse(device: torch.device) -> bool:
    """Whether `device` has PyTorch's sparse tensors, which gradients of a few rows of a table are: one is made."""
    try:
        index = torch.zeros(1, 1, dtype=torch.int64, device=device)
        torch.sparse_coo_tensor(index, torch.ones(1, device=device), (1,), check_invariants=False).coalesce()
    except (NotImplementedError, RuntimeError):
        return False
    return True


# How fast it is and how much it uses


def host_zeros(shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """float32 zeros in host memory, page-locked where `device` can copy to and from such memory by itself."""
    try:
        return torch.zeros(*shape, dtype=torch.float32, pin_memory=device.type not in ("cpu", "meta"))
    except RuntimeError:  # the device has no page-locked memory; copies then wait
        return torch.zeros(*shape, dtype=torch.float32)


def synchronize(device: torch.device) -> None:
    """Wait until all work queued on `device` is done; on the meta device nothing ever is."""
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: by this process on the CPU, by tensors on an accelerator (0 if it keeps no count)."""
    if device.type == "cpu":
        return host.peak_resident()
    try:
        return torch.accelerator.max_memory_allocated(device)
    except RuntimeError:  # the device keeps no such count
        return 0


def measure_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Matrix-multiply speed of `device` in FLOP/s: the best of the products that fit into `seconds`.

    Square matrices double in size until one product takes 5 ms. The process's thread count and PyTorch's float32
    precision setting apply. No global random state is touched.

    Raises:
        DeviceError: the device does not multiply this dtype.
    """
    size, largest = 512, 8192
    try:
        multiply = _product(device, dtype, size)
        while _best_seconds(device, multiply, 0) < 5e-3 and size < largest:
            size *= 2
            multiply = _product(device, dtype, size)
        return 2 * size**3 / _best_seconds(device, multiply, seconds)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"device {device} does not multiply {size}x{size} matrices of {dtype}: {reason}") from None


def measure_bandwidth(device: torch.device, seconds: float = 0.3) -> float:
    """Memory bandwidth of `device` in B/s: the best triad c = a + s b (two reads, one write) within `seconds`."""
    most = (128 if device.type == "cpu" else 512) << 20  # bytes of one vector, well above any cache
    memory = describe(device).memory_bytes or 16 * most
    length = min(most, memory // 16) // 4
    a, b, c = (torch.ones(length, dtype=torch.float32, device=device) for _ in range(3))
    return 3 * 4 * length / _best_seconds(device, lambda: torch.add(a, b, alpha=0.5, out=c), seconds)


def _product(device: torch.device, dtype: torch.dtype, size: int) -> Callable[[], object]:
    # Random contents: constant ones draw less power, and the chip would clock higher than it ever does in training.
    tile = torch.rand(512, 512, generator=torch.Generator().manual_seed(0)).to(device=device, dtype=dtype)
    a = tile.repeat(size // 512, size // 512)
    b, c = a.clone(), torch.empty_like(a)
    return lambda: torch.mm(a, b, out=c)


def _best_seconds(device: torch.device, work: Callable[[], object], budget: float) -> float:
    """The shortest of at least two runs of `work` and as many as `budget` seconds allow, after one that warms up."""
    work()
    synchronize(device)
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)
