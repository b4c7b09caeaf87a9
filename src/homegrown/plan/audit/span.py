"""What a positive figure may be: an interval with a best guess, and the arithmetic of products of powers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from homegrown.config.errors import ConfigError

_ROUNDING = 1e-9
"""Relative slack of comparisons, for floating-point arithmetic's own error."""


@dataclass(frozen=True)
class Span:
    """From `low` to `high`, best guess `value`; `low` may be zero and `high` infinite."""

    low: float
    value: float
    high: float

    def __post_init__(self) -> None:
        if not (0 <= self.low <= self.value <= self.high and 0 < self.value < math.inf):
            raise ConfigError(
                f"a figure of {self.value:g} between {self.low:g} and {self.high:g}: must be positive, finite and "
                "between its ends"
            )

    @classmethod
    def exactly(cls, value: float) -> Span:
        """A figure without doubt."""
        return cls(value, value, value)

    @property
    def factor(self) -> float:
        """The high end over the low one: 1 for a figure without doubt, infinite for an open one."""
        return self.high / self.low if self.low > 0 else math.inf

    @property
    def collapsed(self) -> Span:
        """The best guess, as if it were certain."""
        return Span.exactly(self.value)

    def __mul__(self, other: Span) -> Span:
        return product(1.0, ((self, 1.0), (other, 1.0)))

    def apart(self, other: Span) -> float:
        """By what factor the nearest figures of two intervals differ; 1 if they have one in common."""
        if self.low > other.high * (1 + _ROUNDING):
            return self.low / other.high if other.high else math.inf
        if other.low > self.high * (1 + _ROUNDING):
            return other.low / self.high
        return 1.0

    def holds(self, figure: float) -> bool:
        """Whether a figure lies inside."""
        return self.low * (1 - _ROUNDING) <= figure <= self.high * (1 + _ROUNDING)

    def within(self, least: float, most: float) -> Span:
        """The part between two limits, for a figure that cannot be outside them."""
        low, high = min(max(self.low, least), most), max(min(self.high, most), least)
        return Span(low, min(max(self.value, low), high), high)


def product(constant: float, factors: Iterable[tuple[Span, float]]) -> Span:
    """A constant times figures to their powers."""
    low = value = high = constant
    for span, power in factors:
        value *= span.value**power
        ends = (span.low, span.high) if power > 0 else (span.high, span.low)
        low, high = _times(low, _power(ends[0], power)), _times(high, _power(ends[1], power))
    return Span(min(low, value), value, max(high, value))


def union(spans: Iterable[Span]) -> Span:
    """The interval that holds all of some; its best guess is the middle one of theirs."""
    found = sorted(spans, key=lambda span: span.value)
    return Span(min(span.low for span in found), found[(len(found) - 1) // 2].value, max(span.high for span in found))


def _power(end: float, power: float) -> float:
    if end == 0:
        return 0.0 if power > 0 else math.inf
    if math.isinf(end):
        return math.inf if power > 0 else 0.0
    return end**power


def _times(left: float, right: float) -> float:
    """As usual, but nothing times anything is nothing: an open end tells no more than a zero at the other."""
    return 0.0 if 0.0 in (left, right) else left * right
