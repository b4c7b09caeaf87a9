"""Where a run happens: versions, device, measured limits, and a digest of the code that runs."""

from __future__ import annotations

import hashlib
import platform
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import homegrown
from homegrown import device as devices
from homegrown import ops


def environment(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Facts for the run's record, the device's measured peak (FLOP/s by dtype) and bandwidth (B/s) among them."""
    info = devices.describe(device)
    return {
        "homegrown": homegrown.__version__,
        "code_digest": code_digest(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "versions": {name: metadata.version(name) for name in ("numpy", "safetensors", "tokenizers")},
        "system": platform.platform(),
        "host": socket.gethostname(),
        "device": {"type": info.type, "name": info.name, "memory_bytes": info.memory_bytes, "cores": info.cores},
        "threads": torch.get_num_threads(),
        "dtype": dtype_name(dtype),
        "ops": ops.table(),
        "peak_flops": {dtype_name(kind): devices.measure_peak(device, kind) for kind in {torch.float32, dtype}},
        "bandwidth_bytes_per_s": devices.measure_bandwidth(device),
    }


def dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16` for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


def code_digest() -> str:
    """sha256 over the package's source files, by relative name and content."""
    root = Path(homegrown.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
