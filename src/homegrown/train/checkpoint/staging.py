"""A copy of the state in host memory, so that training goes on while it is written."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from homegrown import device as devices


class Staging:
    """Host memory of the state's size, made at the first copy and used again by every later one."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors as they are now, in host memory and in the order of their names; valid until the next call."""
        self._buffers = {name: self._buffer(name, tensors[name]) for name in sorted(tensors)}
        for name, buffer in self._buffers.items():
            buffer.copy_(tensors[name].detach(), non_blocking=True)
        for device in {tensor.device for tensor in tensors.values()}:
            devices.synchronize(device)
        return self._buffers

    def _buffer(self, name: str, tensor: Tensor) -> Tensor:
        old = self._buffers.get(name)
        if old is not None and old.shape == tensor.shape and old.dtype == tensor.dtype:
            return old
        locked = not tensor.is_cpu and _can_lock_pages()
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=locked)


@functools.cache
def _can_lock_pages() -> bool:
    """Whether the accelerator's runtime gives page-locked host memory, into which copies run at full speed."""
    try:
        torch.empty(1, pin_memory=True)
    except RuntimeError:
        return False
    return True
