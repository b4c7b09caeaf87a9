"""Bytes alive on a device, by what they are for, and the moment when most of them were."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

KINDS = ("parameters", "gradients", "optimizer", "activations", "backward", "step")
"""What memory is for.

gradients: of a micro-batch or summed over several, until they are reduced. activations: made by forward passes.
backward: made while gradients are computed. step: buffers of the gradients' and weights' exchange and of the update.
"""


class Use(NamedTuple):
    """What memory or work belongs to: a kind or phase, and a component of the model."""

    kind: str
    component: str


@dataclass
class Storage:
    """Memory that one or more tensors lie in."""

    size: int
    use: Use
    watch: Any = None


class Memory:
    """Storages from when they are first seen until nobody holds them any more.

    Args:
        device: whose.

    Attributes:
        alive: bytes by use, now.
        total: their sum.
        peak: the largest sum so far.
        at_peak: what it was made of.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device.type
        self.alive: Counter[Use] = Counter()
        self.total = self.peak = 0
        self.at_peak: Counter[Use] = Counter()
        self._known: dict[int, Storage] = {}

    def admit(self, tensor: Tensor, use: Use) -> None:
        """Count a tensor's memory, unless it is known or on another device."""
        for part in parts_of(tensor):
            handle = part.untyped_storage()
            key = handle._cdata
            if key in self._known or part.device.type != self._device:
                continue
            storage = Storage(handle.nbytes(), use)
            storage.watch = weakref.ref(handle, partial(self._release, key))
            self._known[key] = storage
            self.alive[use] += storage.size
            self.total += storage.size
            if self.total > self.peak:
                self.peak, self.at_peak = self.total, Counter(self.alive)

    def claim(self, tensors: Iterable[Tensor], use: Use) -> None:
        """Say what the memory of some tensors is for, from now on."""
        for tensor in tensors:
            self.admit(tensor, use)
            for part in parts_of(tensor):
                storage = self._known.get(part.untyped_storage()._cdata)
                if storage is not None:
                    self.alive[storage.use] -= storage.size
                    self.alive[use] += storage.size
                    storage.use = use

    def use_of(self, tensor: Tensor) -> Use | None:
        """What a tensor's memory is for, where that is known."""
        storage = self._known.get(parts_of(tensor)[0].untyped_storage()._cdata)
        return None if storage is None else storage.use

    def storages(self) -> dict[int, int]:
        """Addresses and sizes of all storages alive."""
        return {key: storage.size for key, storage in self._known.items()}

    def of_kind(self, kind: str) -> dict[str, int]:
        """Bytes of one kind alive, by component."""
        return {use.component: size for use, size in self.alive.items() if use.kind == kind and size}

    def spike(self, rise: int, use: Use) -> None:
        """Memory rose for a moment by so many bytes, and fell again."""
        if self.total + rise > self.peak:
            self.peak, self.at_peak = self.total + rise, Counter(self.alive)
            self.at_peak[use] += rise

    @contextmanager
    def aside(self) -> Iterator[list[int]]:
        """Measure by how much a block raises memory, at most; the peak outside does not notice. The list that is given
        holds that number afterwards."""
        risen: list[int] = []
        peak, at_peak, started = self.peak, self.at_peak, self.total
        self.peak = started
        try:
            yield risen
            risen.append(self.peak - started)
        finally:
            self.peak, self.at_peak = peak, at_peak

    def _release(self, key: int, handle: Any) -> None:
        storage = self._known.pop(key)
        self.alive[storage.use] -= storage.size
        self.total -= storage.size


def parts_of(tensor: Tensor) -> tuple[Tensor, ...]:
    """The dense tensors that a tensor is made of."""
    return (tensor._values(), tensor._indices()) if tensor.is_sparse else (tensor,)
