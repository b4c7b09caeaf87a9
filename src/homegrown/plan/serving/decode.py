"""Decoding: seconds of a token, and the batch that a time per token allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homegrown.plan.facts import Shape
from homegrown.plan.serving.clock import Clock
from homegrown.plan.serving.passes import decode_parts
from homegrown.plan.serving.setup import Pool, Precision, Speculation


@dataclass(frozen=True)
class Decode:
    """A pool that answers, in one world."""

    clock: Clock
    shape: Shape
    pool: Pool
    precision: Precision
    speculation: Speculation
    contexts: Sequence[tuple[float, float]]
    uneven: float = 0.0

    def parts(self, batch: float) -> dict[str, float]:
        """Seconds by part of a step with so many requests in each group."""
        return decode_parts(
            self.clock, self.shape, self.pool, self.precision, self.speculation, self.contexts, batch, self.uneven
        )

    def tpot(self, batch: float) -> float:
        """Seconds of an output token, as a reader sees it."""
        return sum(self.parts(batch).values()) / self.speculation.accepted

    def largest(self, bound: float, most: float) -> float:
        """The largest batch of a group, at most `most`, whose tokens take no longer than the bound; 0 if none does."""
        if self.tpot(1.0) > bound:
            return 0.0
        if self.tpot(most) <= bound:
            return most
        low, high = 1.0, most
        while high - low > max(low / 200, 0.05):
            middle = (low + high) / 2
            if self.tpot(middle) <= bound:
                low = middle
            else:
                high = middle
        return low
