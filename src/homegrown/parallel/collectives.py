"""Collectives on named groups: differentiable, counted, and with sums in a fixed order.

Every sum is made of an all-to-all and a binary tree over the members in their order (`tree`), so that its bits depend
neither on arrival nor on the backend. On a group of one every function hands its argument back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from homegrown.parallel import flight
from homegrown.parallel.groups import Group
from homegrown.parallel.tree import tree_sum


@dataclass
class Call:
    """One collective: what, over which group of how many, and bytes that this process sends to others."""

    op: str
    group: str
    size: int
    sent: int


@dataclass
class Traffic:
    """What this process sent, by operation and group; a full list of calls where one was asked for.

    Attributes:
        totals: (op, group) -> [calls, bytes].
        calls: every call in order, while `listing`.
    """

    totals: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    listing: bool = False

    def note(self, op: str, group: Group, sent: int) -> None:
        """Count one call."""
        entry = self.totals.setdefault((op, group.name), [0, 0])
        entry[0] += 1
        entry[1] += sent
        if self.listing:
            self.calls.append(Call(op, group.name, group.size, sent))

    def reset(self) -> None:
        """Begin anew."""
        self.totals.clear()
        self.calls.clear()


_all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""Its name from PyTorch 2.13 on, and the one before."""

TRAFFIC = Traffic()
"""This process's traffic."""


@contextmanager
def _talking(op: str, group: Group, sent: int) -> Iterator[None]:
    TRAFFIC.note(op, group, sent)
    flight.enter(op, group.name, group.ranks, sent)
    try:
        yield
    finally:
        flight.leave()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


# Sums and copies without gradients


def gather(x: Tensor, group: Group) -> Tensor:
    """Everybody's x, of equal shapes, in order: [size, *x.shape]."""
    if group.size == 1:
        return x[None]
    out = x.new_empty(group.size * max(1, x.numel()))
    flat = x.contiguous().view(-1) if x.numel() else x.new_zeros(1)
    with _talking("all_gather", group, _bytes(x) * (group.size - 1)):
        _all_gather_single(out, flat, group=group.handle)
    return out[: group.size * x.numel()].view(group.size, *x.shape)


def sum_scatter(x: Tensor, group: Group) -> Tensor:
    """Row r of Σ over members of x [size, ...], for member r. Sums are formed in float32 or wider."""
    if group.size == 1:
        return x[0]
    swapped = torch.empty_like(x, memory_format=torch.contiguous_format)
    with _talking("reduce_scatter", group, _bytes(x) // group.size * (group.size - 1)):
        dist.all_to_all_single(swapped, x.contiguous(), group=group.handle)
    return tree_sum(swapped.unbind(0)).to(x.dtype)


def all_reduce(x: Tensor, group: Group) -> Tensor:
    """Σ over members of x, the same bits on all of them."""
    if group.size == 1:
        return x
    each = -(-x.numel() // group.size)
    padded = x.new_zeros(group.size * each)
    padded[: x.numel()] = x.reshape(-1)
    own = sum_scatter(padded.view(group.size, each), group)
    return gather(own, group).view(-1)[: x.numel()].view(x.shape)


def gather_objects(value: Any, group: Group) -> list[Any]:
    """Everybody's picklable value, in order."""
    if group.size == 1:
        return [value]
    values: list[Any] = [None] * group.size
    with _talking("gather_objects", group, 0):
        dist.all_gather_object(values, value, group=group.handle)
    return values


def barrier(group: Group) -> None:
    """Wait until all members are here."""
    gather_objects(None, group)


# Uneven exchanges


@dataclass
class Pending:
    """An exchange that is under way; `wait` gives what arrived."""

    out: Tensor
    work: Any
    group: Group

    def wait(self) -> Tensor:
        """Block until it is complete (on an accelerator: let later work wait for it)."""
        if self.work is not None:
            flight.enter("wait all_to_all", self.group.name, self.group.ranks, _bytes(self.out))
            try:
                self.work.wait()
            finally:
                flight.leave()
            self.work = None
        return self.out


def start_exchange(x: Tensor, group: Group, send: Sequence[int], receive: Sequence[int]) -> Pending:
    """Send rows of x, `send[r]` of them to member r in order, and receive `receive[r]` from each; does not wait."""
    if group.size == 1:
        return Pending(x, None, group)
    out = x.new_empty(sum(receive), *x.shape[1:])
    staying = send[group.rank] * _bytes(x) // max(1, x.shape[0])
    with _talking("all_to_all", group, _bytes(x) - staying):
        work = dist.all_to_all_single(out, x.contiguous(), list(receive), list(send), group=group.handle, async_op=True)
    return Pending(out, work, group)


def exchange(x: Tensor, group: Group, send: Sequence[int], receive: Sequence[int]) -> Tensor:
    """Send rows of x, `send[r]` of them to member r in order; what the members sent here, in their order."""
    return start_exchange(x, group, send, receive).wait()


# With gradients


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return _join(gather(x, group), dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return sum_scatter(_split(grad, ctx.group.size, ctx.dim), ctx.group), None, None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return sum_scatter(_split(x, group.size, dim), group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _join(gather(grad, ctx.group), ctx.dim), None, None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        ctx.group, ctx.send, ctx.receive = group, send, receive
        return exchange(x, group, send, receive)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return exchange(grad, ctx.group, ctx.receive, ctx.send), None, None, None


def all_gather(x: Tensor, group: Group, dim: int) -> Tensor:
    """Members' x side by side along `dim`; gradients are summed back to their parts in tree order."""
    return x if group.size == 1 else _AllGather.apply(x, group, dim)


def reduce_scatter(x: Tensor, group: Group, dim: int) -> Tensor:
    """This member's part along `dim` of the sum over members; gradients are gathered."""
    return x if group.size == 1 else _ReduceScatter.apply(x, group, dim)


def all_to_all(x: Tensor, group: Group, send: Sequence[int], receive: Sequence[int]) -> Tensor:
    """`exchange` through which gradients travel back."""
    return x if group.size == 1 else _Exchange.apply(x, group, tuple(send), tuple(receive))


def _join(parts: Tensor, dim: int) -> Tensor:
    """[size, ...] -> members side by side along `dim`."""
    return torch.cat(parts.unbind(0), dim=dim)


def _split(x: Tensor, size: int, dim: int) -> Tensor:
    """Equal slices along `dim`, stacked: [size, ...]."""
    return torch.stack(x.chunk(size, dim=dim))
