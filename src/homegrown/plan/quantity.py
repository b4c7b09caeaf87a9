"""Figures that are not known exactly: a value, an 80 % interval, and where both come from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np

from homegrown.config.errors import ConfigError

Mark = Literal["A", "A-", "B", "C", "gap"]
"""How far a figure can be trusted: A, read in a primary source; A-, its text through a copy; B, a reputable secondary
reading; C, press or unverified; gap, nobody has published it and this is a range of what is plausible."""

SPREAD: Mapping[Mark, float] = {"A": 1.02, "A-": 1.05, "B": 1.10, "C": 1.35, "gap": 2.0}
"""Factor from a value to each end of its 80 % interval, where the source gives no interval of its own."""

TENTH = NormalDist().inv_cdf(0.9)
"""Standard deviations from the middle of a normal distribution to where its outer tenth begins: 1.2816."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A figure with its 80 % interval: one time in ten it is below `low`, one time in ten above `high`.

    Its logarithm is taken as normal on each side of the middle, so that a figure that must be positive stays so.

    Attributes:
        value: the best guess, in SI units (bytes, bytes/s, FLOP/s, watts, seconds, US dollars).
        mark, source, date: how good the figure is, where it was read, and of when it is (ISO 8601, or part of it).
    """

    value: float
    low: float
    high: float
    mark: Mark = "A"
    source: str = ""
    date: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and 0 < self.low <= self.value <= self.high and math.isfinite(self.high)):
            raise ConfigError(
                f"a figure of {self.value:g} with an interval from {self.low:g} to {self.high:g}: must be positive, "
                "finite and inside its interval"
            )

    @classmethod
    def marked(cls, value: float, mark: Mark, source: str = "", date: str = "", note: str = "") -> Quantity:
        """A figure whose interval is what its mark says."""
        spread = SPREAD[mark]
        return cls(value=value, low=value / spread, high=value * spread, mark=mark, source=source, date=date, note=note)

    def at(self, share: float) -> float:
        """The figure below which a share (0 to 1) of the possible ones lies; 0.5 is the value itself."""
        sigmas = NormalDist().inv_cdf(share)
        end = self.high if sigmas > 0 else self.low
        return self.value * math.exp(abs(sigmas) / TENTH * math.log(end / self.value))


class World:
    """One way in which things may be: every uncertain figure has a definite value in it.

    Figures that go by one name move together, wherever they are used.
    """

    def __init__(self, index: int = 0, of: int = 1, seed: int = 0) -> None:
        self._index, self._of, self._seed = index, of, seed

    def of(self, name: str, quantity: Quantity) -> float:
        """The figure called `name` in this world.

        Over all `of` worlds each figure goes once through each of as many equal shares of its distribution, in an order
        of its own (Latin hypercube sampling). The only world of one has every figure at its best guess.
        """
        return quantity.at((self._stratum(name) + 0.5) / self._of)

    def _stratum(self, name: str) -> int:
        return 0 if self._of == 1 else _order(self._seed, name, self._of)[self._index]


@lru_cache(maxsize=1024)
def _order(seed: int, name: str, count: int) -> tuple[int, ...]:
    """In which order a figure goes through its shares."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return tuple(np.random.default_rng(int.from_bytes(digest, "big")).permutation(count).tolist())


EXPECTED = World()
"""Every figure at its best guess."""


@dataclass(frozen=True)
class Interval:
    """A result: as it is when every figure is at its best guess, and its 80 % interval."""

    value: float
    low: float
    high: float

    def holds(self, figure: float) -> bool:
        """Whether a figure lies inside."""
        return self.low <= figure <= self.high


def intervals(result: Callable[[World], Mapping[str, float]], worlds: int = 64, seed: int = 0) -> dict[str, Interval]:
    """What becomes of results when the figures behind them are uncertain: their tenths over many worlds."""
    middle = result(EXPECTED)
    drawn = [result(World(index, worlds, seed)) for index in range(worlds)]
    found = {}
    for name, value in middle.items():
        low, high = np.quantile([figures[name] for figures in drawn], [0.1, 0.9])
        found[name] = Interval(value, min(float(low), value), max(float(high), value))
    return found
