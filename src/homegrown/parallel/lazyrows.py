"""Gradients of table rows to the rows' owners, and the rows that changed back to all who hold them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from homegrown.config import ConfigError
from homegrown.optim.slots import Slot, take_rows
from homegrown.parallel.collectives import exchange, start_exchange
from homegrown.parallel.exchange import check_width
from homegrown.parallel.groups import Group
from homegrown.parallel.pieces import deal_rows
from homegrown.parallel.tree import tree_sum


class ReplicatedRows:
    """A table of which every member of a group holds the same rows, and whose gradients are rows.

    Each member owns a run of the table's pieces. What travels are the rows that a step has used, with their numbers.
    How many they are decides the sizes of the exchanges, so the host waits for the device; on the meta device, which
    knows no numbers, members are taken to use as many rows of each owner, and no row twice.

    Args:
        name: of the parameter.
        weight: the rows that are here.
        borders: rows of the whole table at which the pieces of these begin and end.
        group: those who hold them.
        gradient_dtype: in which gradients travel to be summed.
    """

    def __init__(
        self, name: str, weight: Tensor, borders: Sequence[int], group: Group, gradient_dtype: torch.dtype
    ) -> None:
        self.name, self._gradient_dtype = name, gradient_dtype
        self._weight, self._group = weight.detach(), group
        firsts = deal_rows(len(borders) - 1, group.size)
        self._starts = [borders[first] - borders[0] for first in firsts]
        self._start, stop = self._starts[group.rank : group.rank + 2]
        own = borders[firsts[group.rank] : firsts[group.rank + 1] + 1]
        master = self._weight[self._start : stop].to(torch.float32, copy=True)
        self.slots = [Slot(name, master, own, weight.device)] if len(own) > 1 else []
        self._changed: list[int] = []

    def reduce(self, gradient: Tensor | None) -> None:
        """Sum the members' gradients into the owners' slots; `None` names no rows.

        Raises:
            ConfigError: the gradient is dense, or of a dtype that would be rounded on the way.
        """
        gradient = no_rows(self._weight) if gradient is None else gradient
        if not gradient.is_sparse:
            raise ConfigError(
                f"parameter {self.name!r}: a row-lazy table on several ranks needs sparse gradients; look rows up with "
                "a lookup that makes such, or take it out of `row_lazy`"
            )
        gradient = gradient if gradient.is_coalesced() else gradient.coalesce()
        check_width(self.name, gradient.dtype, self._gradient_dtype)
        rows, values = gradient.indices()[0], gradient.values().to(self._gradient_dtype)
        send = self._per_owner(rows)
        receive = self._exchanged(send)
        travelling = [start_exchange(tensor, self._group, send, receive) for tensor in (rows, values)]
        rows, values = (pending.wait() for pending in travelling)
        for slot in self.slots:
            slot.gradient = self._sum(rows - self._start, values, receive, slot.master.shape)
        used = sum(len(_indices(slot)) for slot in self.slots)
        self._changed = self._exchanged([used] * self._group.size)

    def publish(self) -> None:
        """Round the rows that the last reduction named from their owners' masters into all members' weights."""
        rows = [_indices(slot) for slot in self.slots]
        self._spread(torch.cat(rows) if rows else self._new_rows(0), self._changed)

    def publish_all(self) -> None:
        """Round all rows from their owners' masters into all members' weights."""
        counts = [stop - start for start, stop in pairwise(self._starts)]
        self._spread(self._new_rows(counts[self._group.rank]), counts)

    def _spread(self, rows: Tensor, counts: list[int]) -> None:
        """Send these rows of this owner to everybody, and take those of all owners."""
        members = self._group.size
        values = self._weight.new_empty(0, *self._weight.shape[1:])
        for slot in self.slots:
            values = take_rows(slot.master, rows).to(self._weight.dtype)
        send = [len(rows)] * members
        numbers = (rows + self._start).repeat(members)
        travelling = [
            start_exchange(tensor, self._group, send, counts)
            for tensor in (numbers, values.repeat(members, *[1] * (values.ndim - 1)))
        ]
        numbers, values = (pending.wait() for pending in travelling)
        self._weight.index_copy_(0, numbers, values)

    def _sum(self, rows: Tensor, values: Tensor, counts: list[int], shape: torch.Size) -> Tensor:
        if rows.is_meta:
            return _sparse(rows, values, shape)
        parts = zip(rows.split(counts), values.split(counts), strict=True)
        return tree_sum([_sparse(of, value, shape) for of, value in parts])

    def _per_owner(self, rows: Tensor) -> list[int]:
        """How many of these ascending rows each member owns."""
        if rows.is_meta:
            stops = [len(rows) * (member + 1) // self._group.size for member in range(self._group.size)]
        else:
            stops = torch.searchsorted(rows, torch.tensor(self._starts[1:], device=rows.device)).tolist()
        return [stop - start for start, stop in pairwise([0, *stops])]

    def _exchanged(self, counts: list[int]) -> list[int]:
        """What each member counted for this one."""
        if self._weight.is_meta:
            return counts
        ones = [1] * self._group.size
        return exchange(torch.tensor(counts, device=self._weight.device), self._group, ones, ones).tolist()

    def _new_rows(self, count: int) -> Tensor:
        return torch.arange(count, device=self._weight.device)


def no_rows(table: Tensor) -> Tensor:
    """A sparse gradient of a table that names no rows."""
    rows = torch.zeros(0, dtype=torch.int64, device=table.device)
    return _sparse(rows, table.new_zeros(0, *table.shape[1:]), table.shape)


def _sparse(rows: Tensor, values: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.sparse_coo_tensor(rows[None], values, tuple(shape), check_invariants=False, is_coalesced=True)


def _indices(slot: Slot) -> Tensor:
    if slot.gradient is None:
        raise ConfigError(f"parameter {slot.name!r}: its rows were not reduced before they are published")
    return slot.gradient.indices()[0]
