"""A parameter as an optimizer sees it: the weight, its float32 master, its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from homegrown.config import ConfigError

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
    """One parameter with its float32 master copy.

    A float32 weight is its own master. Any other weight is the rounded image of a master made from it here, so slots
    are built after the weights are loaded and have their final device and dtype.
    """

    def __init__(self, name: str, weight: nn.Parameter) -> None:
        if not weight.is_floating_point() or not weight.is_contiguous():
            raise ConfigError(f"parameter {name!r}: the optimizer needs contiguous floating-point weights")
        self.name = name
        self.weight = weight
        self.master = weight.detach().to(torch.float32)

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

    def publish(self) -> None:
        """Round the master into the weight."""
        if self.has_master:
            self.weight.detach().copy_(self.master)


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
