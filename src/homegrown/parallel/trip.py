"""Journeys of rows: out in the forward pass, their gradients home in the backward pass, each way begun in one place and
ended in another."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from homegrown.parallel.collectives import Pending, start_exchange
from homegrown.parallel.groups import Group


class Trip:
    """An uneven exchange of rows and the mirror-image exchange of their gradients.

    Nobody waits between `depart` and `arrive`, nor between `turn_back` and `come_home`: what the caller does there
    overlaps with the traffic.

    Args:
        group: who exchanges.
        send, receive: rows to and from each member.
        overlap: `False` waits as soon as an exchange has begun.
    """

    def __init__(self, group: Group, send: Sequence[int], receive: Sequence[int], overlap: bool) -> None:
        self._group, self._send, self._receive, self._overlap = group, send, receive, overlap
        self._pending: Pending | None = None

    def depart(self, rows: Tensor) -> None:
        """Send rows off, `send[r]` of them to member r in order."""
        self._begin(rows, self._send, self._receive)

    def arrive(self) -> Tensor:
        """What the members sent here, in their order."""
        return self._end()

    def turn_back(self, grads: Tensor) -> None:
        """Send the gradients of the rows that arrived."""
        self._begin(grads, self._receive, self._send)

    def come_home(self) -> Tensor:
        """Gradients of the rows that departed."""
        return self._end()

    def _begin(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> None:
        self._pending = start_exchange(rows, self._group, send, receive)
        if not self._overlap:
            self._pending.wait()

    def _end(self) -> Tensor:
        if self._pending is None:
            raise RuntimeError(f"group {self._group.name!r}: rows are waited for that nobody sent off")
        # Forgotten here: a graph that holds the trip must not hold the rows.
        rows, self._pending = self._pending.wait(), None
        return rows
