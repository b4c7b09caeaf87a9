"""The made-up accelerator as a PyTorch plugin: what a vendor's package would be.

PyTorch finds it through its entry point and calls `load` at the end of `import torch`. The built library lies where the
environment variable ABACUS_LIBRARY says.
"""

from __future__ import annotations

import importlib.util
import os
import types
from datetime import timedelta
from typing import Any

NAME = "abacus"
BACKEND = "beads"


def load() -> None:
    """Make the device type and its collective backend known to PyTorch."""
    import torch
    import torch.distributed as dist

    library = _library(os.environ["ABACUS_LIBRARY"])

    def beads(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
        return library.beads(dist.ProcessGroupGloo(store, rank, size, timeout))

    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _device_module())
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    dist.Backend.register_backend(BACKEND, beads, devices=[NAME])


def _library(path: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("_abacus", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _device_module() -> types.ModuleType:
    """What PyTorch asks of `torch.abacus`; the rest it knows from the library."""
    import torch

    module = types.ModuleType("torch.abacus")
    members = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 8,
        "current_device": torch.accelerator.current_device_index,
        "set_device": torch.accelerator.set_device_index,
        "device": lambda device: torch.accelerator.device_index(torch.device(device).index),
        "get_device_name": lambda device=None: "Abacus 1",
        "is_bf16_supported": lambda including_emulation=True: including_emulation,
        # Activation recomputation asks for it, though nothing here uses autocast.
        "get_amp_supported_dtype": lambda: [torch.bfloat16],
        "_is_in_bad_fork": lambda: False,
        # Random numbers are drawn by the CPU's generator, which torch.manual_seed seeds already.
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
    }
    module.__dict__.update(members)
    return module
