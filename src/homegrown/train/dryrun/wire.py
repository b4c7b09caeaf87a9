"""Collectives as they reach the backend: what is seen here is what a real network would be asked to carry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from homegrown.parallel.collectives import TRAFFIC
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import KINDS


@dataclass(frozen=True)
class Message:
    """One call of a collective or of a transfer between two.

    Attributes:
        op: `all_gather`, `all_to_all`, `gather_objects`, `send` or `receive`.
        group: kind of the group, as `parallel.layout` names it.
        ranks: its members.
        send, receive: bytes that go to and come from every member, in order; one number where all are alike.
        peer: the rank at the other end of a transfer between two, else −1.
    """

    op: str
    group: str
    ranks: tuple[int, ...]
    send: tuple[int, ...] | int
    receive: tuple[int, ...] | int
    peer: int = -1

    def sent(self, rank: int) -> int:
        """Bytes that `rank` sends to others."""
        if self.op == "send":
            return sum(self.send) if isinstance(self.send, tuple) else self.send
        if self.op == "receive":
            return 0
        if isinstance(self.send, int):
            return self.send * (len(self.ranks) - 1)
        return sum(self.send) - self.send[self.ranks.index(rank)]


class Wires:
    """Reads messages off the operators of `torch.distributed`.

    Args:
        groups: of this rank, to name those whose use is not noted in the traffic.
    """

    def __init__(self, groups: Groups | None) -> None:
        self._ranks: dict[str, tuple[int, ...]] = {}
        self._kinds = {groups[kind].ranks: kind for kind in reversed(KINDS)} if groups else {}

    def read(self, name: str, args: tuple[Any, ...]) -> list[Message]:
        """What a call of the `c10d` operator `name` sends and receives; nothing where it moves no tensors."""
        handle = next((item for item in args if isinstance(item, torch.ScriptObject)), None)
        if handle is None or name not in _READERS:
            return []
        group = dist.ProcessGroup.unbox(handle)
        if group.group_name not in self._ranks:
            self._ranks[group.group_name] = tuple(dist.get_process_group_ranks(group))
        ranks = self._ranks[group.group_name]
        op, send, receive, peer = _READERS[name](args, ranks)
        return [Message(op, self._kind(ranks, op), ranks, send, receive, peer)]

    def _kind(self, ranks: tuple[int, ...], op: str) -> str:
        """Kinds of group may have the same members: whoever calls a collective has just noted which one it is."""
        latest = TRAFFIC.calls[-1] if TRAFFIC.calls else None
        if latest is not None and op != "receive" and latest.size == len(ranks):
            return latest.group
        return self._kinds.get(ranks, "unnamed")


Read = tuple[str, tuple[int, ...] | int, tuple[int, ...] | int, int]


def _all_gather(args: tuple[Any, ...], ranks: tuple[int, ...]) -> Read:
    size = _bytes(args[1])
    return "all_gather", size, size, -1


def _all_to_all(args: tuple[Any, ...], ranks: tuple[int, ...]) -> Read:
    out, x, _, receive, send = args[:5]
    return "all_to_all", _split(x, send, len(ranks)), _split(out, receive, len(ranks)), -1


def _gather_list(args: tuple[Any, ...], ranks: tuple[int, ...]) -> Read:
    size = sum(_bytes(item) for item in args[1])
    return "gather_objects", size, size, -1


def _send(args: tuple[Any, ...], ranks: tuple[int, ...]) -> Read:
    return "send", sum(_bytes(item) for item in args[0]), 0, ranks[args[2]]


def _receive(args: tuple[Any, ...], ranks: tuple[int, ...]) -> Read:
    return "receive", 0, sum(_bytes(item) for item in args[0]), ranks[args[2]]


_READERS: dict[str, Callable[[tuple[Any, ...], tuple[int, ...]], Read]] = {
    "_allgather_base_": _all_gather,
    "alltoall_base_": _all_to_all,
    "allgather_": _gather_list,
    "send": _send,
    "recv_": _receive,
}


def _split(x: Tensor, rows: list[int], size: int) -> tuple[int, ...] | int:
    if not rows:
        return _bytes(x) // size
    each = _bytes(x) // max(1, x.shape[0])
    return tuple(count * each for count in rows)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
