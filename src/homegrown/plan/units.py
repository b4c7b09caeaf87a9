"""Figures as people write them ("989 TFLOP/s", "400 Gb/s", "3.79 per 1000 node-days") as floats in SI units.

A unit is never guessed: a number without one, one that may be bits or bytes, and a link's rate that may be of one or
of both directions are refused with the field, the value and what is expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from homegrown.config.errors import ConfigError

_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_NUMBER = re.compile(r"\s*([+-]?(?:\d[\d,_]*)?\.?\d+(?:[eE][+-]?\d+)?|[+-]?\d[\d,_]*\.)\s*(.*?)\s*")
_YEAR = 365.25 * 86400


@dataclass(frozen=True)
class Dimension:
    """A kind of figure: its units, and between which bounds one of them is credible.

    Calling it reads a figure: `MEMORY("80 GB", "mine.toml: my chip.memory")` is 8e10.

    Attributes:
        what: the figure in words, with its article.
        units: SI value of one of each unit.
        example: how such a figure is written.
        bounds: the least and the most that is credible, as they are written.
        wrong: units that belong to something else, and what they are units of.
        bare: a number without a unit is one, too.
    """

    what: str
    units: Mapping[str, float]
    example: str
    bounds: tuple[str, str]
    wrong: Mapping[str, str] = field(default_factory=dict)
    bare: bool = False

    def __call__(self, value: object, where: str) -> float:
        """The figure in SI units.

        Args:
            value: text with a unit, or a number.
            where: the field, for error messages.

        Raises:
            ConfigError: it is no such figure, its unit is missing, wrong or ambiguous, or it is not credible.
        """
        number, unit = self.split(value, where)
        amount = number * self.factor(unit, value, where)
        low, high = (self._bound(text) for text in self.bounds)
        if not low <= amount <= high:
            least, most = self.bounds
            raise ConfigError(
                f"{where} = {value!r}: {self.what} must lie between {least} and {most}; are the number and its unit "
                "right?"
            )
        return amount

    def split(self, value: object, where: str) -> tuple[float, str]:
        """The number and the unit of a figure, not yet known to be a unit of this kind."""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ConfigError(f"{where} = {value!r}: must be {self.what}, as in {self.example!r}")
        found = _NUMBER.fullmatch(value if isinstance(value, str) else repr(value))
        if found is None or not math.isfinite(number := float(re.sub("[,_]", "", found[1]))):
            raise ConfigError(f"{where} = {value!r}: must be {self.what}, as in {self.example!r}")
        if number <= 0:
            raise ConfigError(f"{where} = {value!r}: must be positive")
        return number, found[2]

    def factor(self, unit: str, value: object, where: str) -> float:
        """SI value of one `unit`; `value` is the whole figure, for error messages."""
        if unit in self.units:
            return self.units[unit]
        if not unit and self.bare:
            return 1.0
        if not unit:
            raise ConfigError(f"{where} = {value!r}: needs a unit, as in {self.example!r}")
        if unit in self.wrong:
            raise ConfigError(f"{where} = {value!r}: {unit} is a unit of {self.wrong[unit]}, but this is {self.what}")
        alike = [known for known in self.units if known.lower() == unit.lower()]
        if len(alike) > 1:
            raise ConfigError(f"{where} = {value!r}: {unit} may be bits or bytes; write {' or '.join(alike)}")
        hint = f"; did you mean {alike[0]}?" if alike else ""
        raise ConfigError(
            f"{where} = {value!r}: {unit!r} is no unit of {self.what}, which is written as in {self.example!r}{hint}"
        )

    def _bound(self, text: str) -> float:
        found = _NUMBER.fullmatch(text)
        if found is None:
            raise ValueError(f"bound {text!r} of {self.what}")
        return float(found[1]) * (self.units[found[2]] if found[2] else 1.0)


@dataclass(frozen=True)
class _Link(Dimension):
    """A rate of links, which says whether it is of one direction or of both; in bits it is of one, as cards are."""

    def __call__(self, value: object, where: str) -> float:
        if not isinstance(value, str):
            return super().__call__(value, where)
        rate = re.sub(r"\s+(one way|both ways|unidirectional|bidirectional)\s*$", "", value)
        both = bool(re.search(r"(both ways|bidirectional)\s*$", value))
        _, unit = self.split(rate, where)
        if rate == value and unit in self.units and "B" in unit:
            raise ConfigError(
                f"{where} = {value!r}: say whether that is one way or both, as in {value + ' one way'!r} or "
                f"{value + ' both ways'!r}"
            )
        amount = super().__call__(rate, where)
        return amount / 2 if both else amount


def _units(names: tuple[str, ...], prefixes: Mapping[str, float], base: float = 1.0) -> dict[str, float]:
    return {prefix + name: size * base for name in names for prefix, size in prefixes.items()}


_BYTES = _units(("B",), _DECIMAL | _BINARY)
_BITS = _units(("b", "bit"), _DECIMAL, 1 / 8)
_RATES = (
    _units(("B/s", "Bps"), _DECIMAL | _BINARY)
    | _units(("b/s", "bit/s", "bps"), _DECIMAL, 1 / 8)
)  # fmt: skip
_FLOPS = _units(("FLOP/s", "FLOPS", "OP/s", "OPS"), _DECIMAL)
_TIMES = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0,
    "min": 60.0, "h": 3600.0, "d": 86400.0, "day": 86400.0, "days": 86400.0, "y": _YEAR,
}  # fmt: skip
_WATTS = _units(("W",), {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9})
_JOULES = _units(("J",), _DECIMAL) | _units(("Wh",), _DECIMAL, 3600.0)


def _all(names: Mapping[str, float], what: str) -> dict[str, str]:
    return dict.fromkeys(names, what)


PEAK = Dimension(
    "a peak of computation", _FLOPS, "989 TFLOP/s", ("1 GFLOP/s", "1 EFLOP/s"),
    wrong=_all(_units(("FLOP", "OP"), _DECIMAL), "an amount of work"),
)  # fmt: skip
MEMORY = Dimension(
    "a size of memory", _BYTES, "80 GB", ("100 MB", "100 TB"),
    wrong=_all(_BITS, "bits") | _all(_RATES, "a rate"),
)  # fmt: skip
BANDWIDTH = Dimension(
    "a rate of memory", _RATES, "3350 GB/s", ("1 GB/s", "1 PB/s"),
    wrong=_all(_BYTES, "an amount of memory"),
)  # fmt: skip
LINK = _Link(
    "a rate of links", _RATES, "450 GB/s one way", ("1 MB/s", "10 TB/s"),
    wrong=_all(_BYTES, "an amount of memory"),
)  # fmt: skip
STORAGE = Dimension(
    "a rate of storage, of one device", _RATES, "120 MB/s", ("10 kB/s", "100 GB/s"),
    wrong=_all(_BYTES, "an amount of memory"),
)  # fmt: skip
POWER = Dimension("a power", _WATTS, "700 W", ("0.5 W", "20 kW"), wrong=_all(_JOULES, "energy"))
LATENCY = Dimension("a latency", _TIMES, "3.4 us", ("10 ns", "1 s"))
TIME = Dimension("a time", _TIMES, "5 min", ("1 ns", "100 y"))
SHARE = Dimension("a share", {"%": 0.01}, "80 %", ("0.01 %", "100 %"), bare=True)
FACTOR = Dimension("a number", {}, "1.15", ("1e-9", "1e9"), bare=True)
PUE = Dimension("a power usage effectiveness", {}, "1.15", ("1", "3"), bare=True)
FAILURES = Dimension(
    "a rate of failures", {"per node-day": 1.0, "per 1000 node-days": 1e-3}, "3.79 per 1000 node-days",
    ("0.001 per 1000 node-days", "1 per node-day"),
)  # fmt: skip
POD_FAILURES = Dimension(
    "a rate of losing pods", {"per pod-day": 1.0, "per 1000 pod-days": 1e-3}, "5 per 1000 pod-days",
    ("0.001 per 1000 pod-days", "1 per pod-day"),
)  # fmt: skip
RENTAL = Dimension("a price of an hour", {"USD/h": 1.0}, "2.95 USD/h", ("0.001 USD/h", "1000 USD/h"))
"""US dollars an hour, not a second: so prices are compared everywhere."""
ENERGY_PRICE = Dimension(
    "a price of energy", {"USD/kWh": 1 / 3.6e6, "USD/MWh": 1 / 3.6e9}, "0.08 USD/kWh", ("0.001 USD/kWh", "5 USD/kWh"),
)  # fmt: skip
ENERGY = Dimension(
    "an amount of energy", _JOULES, "433 MWh", ("1 J", "100 TWh"), wrong=_all(_WATTS, "power"),
)  # fmt: skip
WORK = Dimension(
    "an amount of work", _units(("FLOP", "OP"), _DECIMAL), "3.8e25 FLOP", ("1 FLOP", "1e32 FLOP"),
    wrong=_all(_FLOPS, "a rate of work"),
)  # fmt: skip
_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
COUNT = Dimension("a number of tokens or parameters", _COUNTS, "35T", ("1", "1e18"), bare=True)
TOKENS = Dimension(
    "a number of tokens", _COUNTS | {f"{prefix} tokens".strip(): size for prefix, size in _COUNTS.items()}, "35T",
    ("1", "1e18"), bare=True,
)  # fmt: skip
"""Decimal: 35T tokens are 35e12."""
_CONTEXT = Dimension("a length of context", {"": 1.0, "K": 2.0**10, "k": 2.0**10, "M": 2.0**20}, "128K", ("1", "1024M"))


def money(yuan: float) -> Dimension:
    """Purchase prices, in US dollars; one yuan is so many of them."""
    units = {"USD": 1.0, "kUSD": 1e3, "MUSD": 1e6, "CNY": yuan, "kCNY": 1e3 * yuan, "MCNY": 1e6 * yuan}
    return Dimension("a price", units, "47000 USD", ("0.001 USD", "1000000 USD"))


def context(value: object, where: str) -> int:
    """Tokens of a sequence; K and M are binary, as context lengths are: 128K is 131,072.

    Raises:
        ConfigError: it is no length of context, or no whole number of tokens.
    """
    tokens = _CONTEXT(value, where)
    if tokens != int(tokens):
        raise ConfigError(f"{where} = {value!r}: must be a whole number of tokens")
    return int(tokens)
