"""Named process groups: few, made once, shared by whoever has the same members."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from homegrown import device as devices
from homegrown.parallel.layout import KINDS, Layout


@dataclass(frozen=True)
class Group:
    """Ranks that talk to each other.

    Attributes:
        name: kind of the group.
        ranks: world ranks of its members, in order.
        rank: this process's place among them.
        handle: the process group of `torch.distributed`; `None` for a group of one, whose collectives do nothing.
    """

    name: str
    ranks: tuple[int, ...]
    rank: int
    handle: Any = None

    @property
    def size(self) -> int:
        """Number of members."""
        return len(self.ranks)


ALONE = Group("alone", (0,), 0)
"""A group of one."""


class Groups:
    """All groups of one rank, by kind.

    Args:
        layout: who is who.
        rank: this process.
        timeout_s: seconds until a collective that does not complete is an error.
    """

    def __init__(self, layout: Layout, rank: int, timeout_s: float) -> None:
        self.layout, self.rank = layout, rank
        self._groups: dict[str, Group] = {}
        handles: dict[tuple[int, ...], Any] = {}
        # Every process goes through the kinds in the same order, and has one group of each: members always meet.
        for kind in KINDS:
            ranks = layout.members(kind, rank)
            # PyTorch names a group by its members and by how many groups a process has made: all must make as many,
            # those between the first and the last stage too, who have no words.
            if (len(ranks) > 1 or (kind == "words" and layout.pp > 2)) and ranks not in handles:
                handles[ranks] = self._make(ranks, timeout_s)
            self._groups[kind] = Group(kind, ranks, ranks.index(rank), handles[ranks] if len(ranks) > 1 else None)
        # Checkpoints are written in the background: their talk must not come between training's.
        everyone = self._groups["world"].ranks
        handle = self._host_group(timeout_s) if len(everyone) > 1 else None
        self._groups["saving"] = Group("saving", everyone, rank, handle)

    def __getitem__(self, kind: str) -> Group:
        return self._groups[kind]

    def _host_group(self, timeout_s: float) -> Any:
        dry = dist.get_backend() == "fake"  # PyTorch's stand-in that moves nothing, under which a dry run counts
        backend = None if dry else devices.collective_backend(torch.device("cpu"))
        return dist.new_group(backend=backend, timeout=timedelta(seconds=timeout_s))

    def _make(self, ranks: tuple[int, ...], timeout_s: float) -> Any:
        if len(ranks) == dist.get_world_size():
            return dist.group.WORLD
        # Only the members take part in making a group; the others need not even know of it.
        return dist.new_group(list(ranks), timeout=timedelta(seconds=timeout_s), use_local_synchronization=True)
