"""Tensors that go from one member of a group to another: started together, waited for one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch.distributed as dist
from torch import Tensor

from homegrown.parallel import flight
from homegrown.parallel.collectives import TRAFFIC
from homegrown.parallel.groups import Group


@dataclass(frozen=True)
class Transfer:
    """One tensor from a member of a group to another.

    Attributes:
        tensor: what is sent, contiguous, or the room for what is received.
        source, target: places of the two members in the group; one of them is this process's.
        tag: a number both of them know it by.
    """

    tensor: Tensor
    source: int
    target: int
    tag: int


@dataclass
class Underway:
    """A transfer that has been started."""

    transfer: Transfer
    work: Any
    group: Group

    def wait(self) -> Tensor:
        """Block until it is complete (on an accelerator: let later work wait for it).

        Raises:
            RuntimeError: the other member is gone, or did not come within the group's timeout.
        """
        transfer = self.transfer
        if self.work is not None:
            taken = " taken" if transfer.source == self.group.rank else ""
            name, ends = _pair(self.group.name, self.group.ranks, transfer.source, transfer.target)
            flight.enter("wait transfer", name + taken, ends, _bytes(transfer.tensor))
            try:
                self.work.wait()
            finally:
                flight.leave()
            self.work = None
        return transfer.tensor


def start_transfers(transfers: Sequence[Transfer], group: Group) -> list[Underway]:
    """Start transfers all at once, without waiting. What is sent must not change until it has been waited for.

    Two members start the transfers between them in the same order.

    Raises:
        RuntimeError: the other member is gone.
    """
    if not transfers:
        return []
    operations = []
    for transfer in transfers:
        outgoing = transfer.source == group.rank
        other = transfer.target if outgoing else transfer.source
        kind = dist.isend if outgoing else dist.irecv
        operations.append(dist.P2POp(kind, transfer.tensor, group=group.handle, tag=transfer.tag, group_peer=other))
        if outgoing:
            # A receiver enters when it waits: a sender that has not entered as often by then has not come.
            name, ends = _pair(group.name, group.ranks, transfer.source, transfer.target)
            TRAFFIC.note("send", group, _bytes(transfer.tensor))
            flight.enter("send", name, ends, _bytes(transfer.tensor))
            flight.leave()
    works = dist.batch_isend_irecv(operations)
    # A backend that joins the operations gives one handle for all of them.
    works = works * len(transfers) if len(works) == 1 else works
    return [Underway(transfer, work, group) for transfer, work in zip(transfers, works, strict=True)]


@cache
def _pair(name: str, ranks: tuple[int, ...], source: int, target: int) -> tuple[str, tuple[int, ...]]:
    """Name and world ranks of the two ends of a transfer, for the flight record; the same objects each time."""
    return f"{name} {source}>{target}", tuple(sorted((ranks[source], ranks[target])))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
