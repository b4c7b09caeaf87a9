"""How long things are: one notation for prompts, answers, turns and tool results."""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass

from homegrown.config import UsageError

_FORMS = "64 (always), 32-128 (evenly spread), 16,64,256 (in turn), or lognormal:64:0.6:512 (median, sigma, at most)"


@dataclass(frozen=True)
class Lengths:
    """A distribution of whole numbers.

    Attributes:
        form: what it was written as.
        values: taken in turn; empty for the other two.
        low, high: bounds, both included.
        sigma: of the logarithm, for a lognormal one whose median is `median`; 0: evenly spread.
    """

    form: str
    values: tuple[int, ...] = ()
    low: int = 1
    high: int = 1
    median: float = 0.0
    sigma: float = 0.0

    @classmethod
    def parse(cls, form: str, flag: str, least: int = 1) -> Lengths:
        """Read a distribution.

        Args:
            form: `64`, `32-128`, `16,64,256` or `lognormal:MEDIAN:SIGMA:MOST`.
            flag: where it was given, for errors.
            least: no value is below this.

        Raises:
            UsageError: it is none of these.
        """
        if re.fullmatch(r"\d+(,\d+)*", form):
            made = cls(form, values=tuple(map(int, form.split(","))))
        elif found := re.fullmatch(r"(\d+)-(\d+)", form):
            made = cls(form, low=int(found[1]), high=int(found[2]))
        elif found := re.fullmatch(r"lognormal:([\d.]+):([\d.]+):(\d+)", form):
            made = cls(form, low=least, high=int(found[3]), median=float(found[1]), sigma=float(found[2]))
        else:
            raise UsageError(f"{flag} {form}: is no length; write {_FORMS}")
        lowest = min(made.values) if made.values else made.low
        if lowest < least or (not made.values and made.high < made.low):
            raise UsageError(f"{flag} {form}: must be at least {least}, and not end below where it begins")
        return made

    def draw(self, rng: random.Random, number: int) -> int:
        """The length of the thing of that number."""
        if self.values:
            return self.values[number % len(self.values)]
        if not self.sigma:
            return rng.randint(self.low, self.high)
        drawn = round(math.exp(rng.gauss(math.log(self.median), self.sigma)))
        return min(max(drawn, self.low), self.high)

    @property
    def most(self) -> int:
        """The longest possible."""
        return max(self.values) if self.values else self.high
