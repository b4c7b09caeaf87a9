"""Activation memory: what a forward pass leaves for the backward pass, where it is kept, and how much it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from homegrown.config import ConfigError, TrainConfig
from homegrown.model import Longcat
from homegrown.ops import saving

OFFLOADED_BYTES = 1 << 20
"""Saved tensors of at least this size are worth a trip to the host."""


class Kept(NamedTuple):
    """Bytes that one micro-batch keeps for its backward pass."""

    device: int
    host: int


def kept_as_configured(
    config: TrainConfig, models: Sequence[Longcat], device: torch.device, *, least: int = OFFLOADED_BYTES
) -> Callable[[], AbstractContextManager[None]]:
    """A context for every forward pass of a run, in which saved tensors are dropped or moved as configured.

    Recomputation of whole layers (`recompute = "full"`) is the model's own; what a layer begins with is saved all the
    same, and moved to the host under `offload`.

    Args:
        config: its `recompute` and `offload`.
        models: the parts that live here; their parameters stay where they are.
        device: where it computes.
        least: bytes from which on a saved tensor is moved.

    Raises:
        ConfigError: the device's memory is the host's.
    """
    for model in models:
        model.recompute = config.recompute == "full"
    selective, away = config.recompute == "selective", config.offload in ("activations", "all")
    if away and device.type == "cpu":
        raise ConfigError(
            f'offload = "{config.offload}": this run computes on the CPU, whose memory is the host\'s; use "none"'
        )
    if away:
        return lambda: saving(selective, HostStore(chain(*(model.parameters() for model in models)), least))
    return (lambda: saving(True)) if selective else nullcontext


class HostStore:
    """Keeps large tensors in the host's memory until they are asked for; one for each forward pass.

    Copies are queued behind the computation that made a tensor, into page-locked memory where there is such, so that
    the host does not wait. A storage travels once, however many views of it are saved.

    Args:
        staying: tensors that live on whatever is saved of them, the parameters.
        least: smaller tensors, in bytes, stay.
    """

    def __init__(self, staying: Iterable[Tensor], least: int = OFFLOADED_BYTES) -> None:
        self._staying, self._least = _storages(staying), least
        self._moved: dict[StorageWeakRef, tuple[Tensor, torch.device]] = {}
        self._back: tuple[Tensor, Tensor] | None = None

    def put(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Copy to the host what is large."""
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        if storage.nbytes() < self._least or reference in self._staying:
            return lambda: tensor
        if reference not in self._moved:
            flat = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            host = torch.empty(flat.shape, dtype=torch.uint8, device="cpu", pin_memory=_locks_pages(tensor.device))
            self._moved[reference] = (host.copy_(flat, non_blocking=True), tensor.device)
        host, device = self._moved[reference]
        dtype, shape, stride, offset = tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()
        return lambda: self._bring(host, device).view(dtype).as_strided(shape, stride, offset)

    def _bring(self, host: Tensor, device: torch.device) -> Tensor:
        """The bytes of a storage, on its device again. Ops in a row often want the same one: the latest stays."""
        if self._back is None or self._back[0] is not host:
            self._back = None
            self._back = (host, torch.empty_like(host, device=device).copy_(host, non_blocking=True))
        return self._back[1]


@cache
def _locks_pages(device: torch.device) -> bool:
    """Whether there is page-locked memory, which a device reads and writes by itself."""
    if device.type == "cpu":
        return False
    try:
        return torch.empty(1, pin_memory=True).is_pinned()
    except RuntimeError:  # the device's library does not offer it
        return False


class _Meter:
    """Keeps tensors where they are and knows how large they are."""

    def __init__(self, staying: Iterable[Tensor]) -> None:
        self._staying = _storages(staying)
        self._sizes: dict[StorageWeakRef, int] = {}

    def put(self, tensor: Tensor) -> Callable[[], Tensor]:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        if reference not in self._staying:
            self._sizes[reference] = storage.nbytes()
        return lambda: tensor

    def sizes(self) -> list[int]:
        """Bytes of the storages that still exist, each once."""
        return [size for reference, size in self._sizes.items() if not reference.expired()]


def measure_activations(
    forward: Callable[[], object],
    model: Longcat,
    recompute: str = "none",
    offload: str = "none",
    *,
    least: int = OFFLOADED_BYTES,
) -> Kept:
    """Bytes that a forward pass keeps for its backward pass, counted storage by storage; parameters do not count.

    Works on meta and fake tensors as well, if the pass does: nothing is computed here. A selection of keys that a
    recomputed layer takes over from the layer before is not counted.

    Args:
        forward: runs the pass; its result holds the graph.
        model: what runs.
        recompute, offload: as in `TrainConfig`.
        least: bytes from which on a saved tensor goes to the host.
    """
    before, model.recompute = model.recompute, recompute == "full"
    meter = _Meter(model.parameters())
    try:
        with saving(recompute == "selective", meter):
            graph = forward()
        sizes = meter.sizes()
        del graph
    finally:
        model.recompute = before
    away = sum(size for size in sizes if size >= least) if offload in ("activations", "all") else 0
    return Kept(sum(sizes) - away, away)


def _storages(tensors: Iterable[Tensor]) -> set[StorageWeakRef]:
    return {StorageWeakRef(tensor.untyped_storage()) for tensor in tensors}
