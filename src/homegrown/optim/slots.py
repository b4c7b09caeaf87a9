"""What an optimizer updates: rows of a parameter, their float32 master, their gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from homegrown.config import ConfigError
from homegrown.device import host_zeros

T = TypeVar("T")

CHUNK_NUMBERS = 1 << 20
"""Numbers worked on at a time. It bounds an update's temporaries to a few times 4 MiB, which memory allocators reuse
(larger ones cost page faults), and is enough for batched products to run at full speed."""


@dataclass(frozen=True)
class Update:
    """One step of one group."""

    lr: float
    """Learning rate, the schedule's factor included."""
    weight_decay: float
    """Decoupled: the weights are multiplied by 1 - lr * weight_decay."""
    grad_scale: Tensor | None = None
    """float32 scalar tensor that multiplies the gradients; None is 1."""
    keep: Tensor | None = None
    """bool scalar tensor; False leaves weights and state as they are, to the last bit. None is True."""


class Slot:
    """Consecutive rows of a parameter that are updated here.

    They are cut at `borders` into pieces. What a piece becomes depends on that piece alone: the same pieces cut from
    other slots, in other processes, get the same bits.

    Attributes:
        name: of the parameter.
        master: float32, the rows.
        borders: rows of the whole parameter at which pieces begin and end, ascending.
        device: where updates are computed.
        offloaded: whether master and state live in host memory.
    """

    def __init__(self, name: str, master: Tensor, borders: Sequence[int], device: torch.device) -> None:
        self.name = name
        self.master = master
        self.borders = tuple(borders)
        self.device = device
        self.offloaded = False
        self._gradient: Tensor | None = None

    @property
    def gradient(self) -> Tensor | None:
        """The rows' gradient, `None` where they have none; a sparse one is coalesced."""
        return self._gradient

    @gradient.setter
    def gradient(self, gradient: Tensor | None) -> None:
        self._gradient = gradient

    @property
    def has_master(self) -> bool:
        """Whether the master is a tensor of its own, and not the weight itself."""
        return True

    def cut(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The pieces of a tensor of as many rows: views."""
        return rows.split([stop - start for start, stop in pairwise(self.borders)])

    def zeros(self) -> Tensor:
        """float32 zeros of the master's shape, where state lives."""
        if self.offloaded:
            return host_zeros(self.master.shape, self.device)
        return torch.zeros_like(self.master)

    def offload(self) -> None:
        """Keep the master, and state that is made from now on, in host memory."""
        self.offloaded = True
        self.master = self.zeros().copy_(self.master)

    def publish(self, rows: Tensor | None = None) -> None:
        """Called when the master has changed, in these rows only if they are given (int64, from the slot's start)."""


class WeightSlot(Slot):
    """Rows that nobody else updates: all that this process has of a parameter.

    A float32 weight is its own master. Any other weight is the rounded image of a master made from it here, so slots
    are built after the weights are loaded and have their final device and dtype.

    Args:
        name: of the parameter.
        weight: the rows.
        borders: see `Slot`; by default all rows are one piece.
    """

    def __init__(self, name: str, weight: Tensor, borders: Sequence[int] | None = None) -> None:
        if not weight.is_floating_point() or not weight.is_contiguous():
            raise ConfigError(f"parameter {name!r}: the optimizer needs contiguous floating-point weights")
        self.weight = weight
        master = weight.detach().to(torch.float32)
        super().__init__(name, master, (0, len(weight)) if borders is None else borders, weight.device)

    @property
    def has_master(self) -> bool:
        """Whether the master is a tensor of its own."""
        return self.weight.dtype != torch.float32

    @property
    def gradient(self) -> Tensor | None:
        """The gradient as autograd left it; a sparse one is coalesced first (once: the result replaces it)."""
        gradient = self.weight.grad
        if gradient is not None and gradient.is_sparse and not gradient.is_coalesced():
            gradient = self.weight.grad = gradient.coalesce()
        return gradient

    @gradient.setter
    def gradient(self, gradient: Tensor | None) -> None:
        self.weight.grad = gradient

    def offload(self) -> None:
        """As in `Slot`; a master that is the weight itself stays with it."""
        if self.has_master:
            super().offload()
        self.offloaded = True

    def publish(self, rows: Tensor | None = None) -> None:
        """Round the master into the weight."""
        weight = self.weight.detach()
        if self.has_master and rows is None:
            weight.copy_(self.master)
        elif self.has_master and rows is not None:
            weight.index_copy_(0, rows, take_rows(self.master, rows).to(weight))


@contextmanager
def brought(tensors: Sequence[Tensor], device: torch.device) -> Iterator[list[Tensor]]:
    """The tensors themselves where they live on `device`, else copies there that are written back at the end.

    The host waits for neither way where their memory is page-locked.
    """
    here = [t if t.device == device else t.to(device, non_blocking=t.is_pinned()) for t in tensors]
    yield here
    for tensor, copy in zip(tensors, here, strict=True):
        if copy is not tensor:
            tensor.copy_(copy, non_blocking=tensor.is_pinned())


def take_rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """The rows `tensor[rows]` on the device of `rows`, wherever the tensor lives."""
    return tensor.index_select(0, rows.to(tensor.device)).to(rows.device)


def put_rows(tensor: Tensor, rows: Tensor, values: Tensor) -> None:
    """tensor[rows] = values, wherever the tensor lives."""
    tensor.index_copy_(0, rows.to(tensor.device), values.to(tensor.device))


def in_chunks(items: Iterable[T], numbers: Callable[[T], int]) -> Iterator[list[T]]:
    """The items in order, in lists that hold at most `CHUNK_NUMBERS` numbers; a larger item stands alone."""
    chunk: list[T] = []
    total = 0
    for item in items:
        size = numbers(item)
        if chunk and total + size > CHUNK_NUMBERS:
            yield chunk
            chunk, total = [], 0
        chunk.append(item)
        total += size
    if chunk:
        yield chunk


def assign(target: Tensor, value: Tensor, where: Tensor | None) -> None:
    """Overwrite `target` with `value` where the bool tensor `where` is true (broadcast; None is everywhere).

    A choice, not a product with 0 or 1: what is kept is kept to the last bit, even if `value` is not finite there.
    """
    if where is None:
        target.copy_(value)
    else:
        torch.where(where, value, target, out=target)
