"""Which keys each query sees: one interval of key positions per query."""

from __future__ import annotations

import hashlib
from functools import cached_property

import torch
from torch import Tensor


class Span:
    """Query t of batch row b sees keys first[b, t] ≤ s ≤ last[b, t] of that row.

    This one rule covers a causal sequence, packed documents, a padded batch, chunked prefill and decoding from a
    cache. The intervals start on the host, where loops over chunks read their bounds without waiting for a device.

    Attributes:
        first, last: int64 [B, S] on the device.
        positions: rotary positions, last − first: a document's first token has position 0.
    """

    def __init__(self, first: Tensor, last: Tensor, device: torch.device | str = "cpu") -> None:
        self._first_host, self._last_host = first.cpu(), last.cpu()
        self.first, self.last = first.to(device), last.to(device)
        self._known: dict[tuple[int, int], tuple[tuple[int, int], tuple[int, int]]] = {}

    @classmethod
    def causal(cls, batch: int, length: int, past: int = 0, device: torch.device | str = "cpu") -> Span:
        """`length` new positions after `past` cached ones, one document per row."""
        last = torch.arange(past, past + length).expand(batch, length)
        return cls(torch.zeros_like(last), last, device)

    @classmethod
    def packed(cls, first: Tensor, device: torch.device | str = "cpu") -> Span:
        """Rows of packed documents; first int64 [B, S] is where each position's document begins."""
        return cls(first, torch.arange(first.shape[1]).expand_as(first), device)

    @property
    def positions(self) -> Tensor:
        """Rotary positions, int64 [B, S]."""
        return self.last - self.first

    @cached_property
    def max_visible(self) -> int:
        """The most keys any query sees."""
        return int((self._last_host - self._first_host).max()) + 1

    @cached_property
    def keys(self) -> int:
        """Number of keys the queries reach: one past the largest visible position."""
        return int(self._last_host.max()) + 1

    @cached_property
    def fingerprint(self) -> bytes:
        """A digest of the intervals: equal for equal ones."""
        digest = hashlib.blake2b(str(self._first_host.shape).encode())
        for tensor in (self._first_host, self._last_host):
            digest.update(tensor.numpy().tobytes())
        return digest.digest()

    def bounds(self, start: int, stop: int) -> tuple[int, int]:
        """The range of keys that any of the queries start..stop sees, as host integers [low, high)."""
        return self._ranges(start, stop)[0]

    def common(self, start: int, stop: int) -> tuple[int, int]:
        """The range of keys that all queries start..stop see, as host integers [low, high); empty if low ≥ high."""
        return self._ranges(start, stop)[1]

    def _ranges(self, start: int, stop: int) -> tuple[tuple[int, int], tuple[int, int]]:
        # Every sublayer asks for the same chunks, forward and backward.
        if (start, stop) not in self._known:
            first, last = self._first_host[:, start:stop].aminmax(), self._last_host[:, start:stop].aminmax()
            self._known[start, stop] = (
                (int(first.min), int(last.max) + 1),
                (int(first.max), int(last.min) + 1),
            )
        return self._known[start, stop]

    def hidden(self, start: int, stop: int, low: int, high: int) -> Tensor:
        """True where queries start..stop do not see keys low..high: bool [B, stop − start, high − low]."""
        keys = torch.arange(low, high, device=self.first.device)
        return (keys < self.first[:, start:stop, None]) | (keys > self.last[:, start:stop, None])
