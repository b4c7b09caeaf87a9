"""Figures as claims word them: "> 35T", "about 50,000", "1M to 10M accelerator-days", "41 %", "400 ± 5 TFLOP/s".

A figure is as exact as it is written: half a unit of its last digit, up or down. "More than" has no end in logic but
has one in language: who says more than 35 trillion would have said more if it were much more (`BEYOND`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from homegrown.config.errors import ConfigError
from homegrown.plan import units
from homegrown.plan.audit.quantities import DAY, HOUR, Kind
from homegrown.plan.audit.span import Span

BEYOND = 1.25
"""How much more "more than" says at most, and how much less "less than": about the step to the next round number."""
ABOUT = 1.1
"""How far "about" reaches, up or down."""

_YEAR = 365.25 * DAY
_TIMES = {
    "s": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": HOUR, "hour": HOUR, "d": DAY, "day": DAY,
    "week": 7 * DAY, "month": _YEAR / 12, "year": _YEAR, "ms": 1e-3,
}  # fmt: skip
_MAGNITUDES = {
    "K": 1e3, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "thousand": 1e3, "million": 1e6, "billion": 1e9,
    "trillion": 1e12,
}  # fmt: skip
_THINGS = (
    "token", "parameter", "device", "card", "chip", "package", "die", "accelerator", "GPU", "gpu", "processor", "node",
    "interruption", "item",
)  # fmt: skip
_DEVICES = _THINGS[2:11]


UNITS: dict[str, Mapping[str, float]] = {
    "number": {"": 1.0},
    "count": {"": 1.0} | dict.fromkeys(_THINGS, 1.0),
    "time": {**units.TIME.units, **_TIMES},
    "device time": {f"{device}-{time}": size for device in _DEVICES for time, size in _TIMES.items()},
    "device time per token": {
        f"{device}-{time}/{tokens}": size / amount
        for device in _DEVICES
        for time, size in _TIMES.items()
        for tokens, amount in (("T", 1e12), ("B", 1e9), ("token", 1.0))
    },
    "pace": {f"{token}/{time}": 1 / size for token in ("token", "tok") for time, size in _TIMES.items()},
    "work": units.WORK.units,
    "work rate": units.PEAK.units,
    "share": {"%": 0.01, "": 1.0, **{f"{time}/day": size / DAY for time, size in _TIMES.items()}},
    "power": units.POWER.units,
    "energy": units.ENERGY.units,
    "money": {"$": 1.0, "USD": 1.0},
    "price": {f"{money}/{time}": 1 / size for money in ("$", "USD") for time, size in _TIMES.items()},
    "frequency": {f"/{time}": 1 / size for time, size in _TIMES.items()},
    "node frequency": {"/1000 node-days": 1 / (1000 * DAY), "/node-day": 1 / DAY},
}
"""Units by what they measure, with their size in SI units (seconds, FLOP, watts, joules, dollars)."""

_EXAMPLES = {
    "number": "1.33", "count": "14.8T", "time": "54 days", "device time": "2.788M device-hours",
    "device time per token": "180K device-hours/T", "pace": "1.46M tokens/s", "work": "3.8e25 FLOP",
    "work rate": "400 TFLOP/s", "share": "41 %", "power": "700 W", "energy": "433 MWh", "money": "$5.576M",
    "price": "$2/h", "frequency": "8.3 /day", "node frequency": "3.79 /1000 node-days",
}  # fmt: skip

_RELATIONS = {
    ">": "more", ">=": "more", "≥": "more", "more than": "more", "over": "more", "at least": "more",
    "<": "less", "<=": "less", "≤": "less", "less than": "less", "up to": "less", "at most": "less",
    "~": "about", "≈": "about", "about": "about", "some": "about",
}  # fmt: skip
_DIGITS = r"\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?"
_SIZE = r"thousand|million|billion|trillion|[KkMBT](?![A-Za-z])"
_TEXT = re.compile(
    rf"\s*(?P<relation>{'|'.join(sorted(map(re.escape, _RELATIONS), key=len, reverse=True))})?"
    rf"\s*(?P<money>\$)?\s*(?P<first>{_DIGITS})\s*(?P<size>{_SIZE})?"
    rf"\s*(?:(?P<join>±|to|-|–)\s*\$?\s*(?P<second>{_DIGITS})\s*(?P<size2>{_SIZE})?)?"
    r"\s*(?P<unit>.*?)\s*"
)


def figure(text: str | float, kind: Kind, where: str) -> Span:
    """The figure of a kind that a text gives, in SI units, as exactly as the text gives it.

    Args:
        text: as in the module's description; a number is read as it is written.
        kind: what it is a figure of.
        where: opens the message of an error.

    Raises:
        ConfigError: the text holds no figure, its unit measures something else, or it is absurd.
    """
    found = _TEXT.fullmatch(str(text))
    if not found:
        raise ConfigError(
            f"{where}: {text!r} gives no figure for {kind.title}; write it as {_EXAMPLES[kind.dimension]!r}"
        )
    scale = _scale(found["unit"], found["money"] or "", kind, f"{where}: {text!r}")
    stated = _stated(found, f"{where}: {text!r}")
    span = Span(stated.low * scale, stated.value * scale, stated.high * scale)
    if not kind.least <= span.value <= kind.most:
        raise ConfigError(
            f"{where}: {text!r} is absurd for {kind.title}: must be between {kind.told(kind.least)} and "
            f"{kind.told(kind.most)}"
        )
    return span.within(0.0, kind.most)


def _stated(found: re.Match[str], where: str) -> Span:
    """The interval that the words give, in the text's own unit."""
    first, step = _number(found["first"], found["size"] or found["size2"] or "")
    if first == 0:
        raise ConfigError(f"{where}: must be greater than zero")
    if found["join"]:
        second, _ = _number(found["second"], found["size2"] or found["size"] or "")
        around = found["join"] == "±"
        low, high = (first - second, first + second) if around else (first, second)
        if not 0 < low <= high:
            raise ConfigError(f"{where}: an interval goes from a positive figure up to a greater one")
        return Span(low, first if around else math.sqrt(low * high), high)
    match _RELATIONS.get(found["relation"] or ""):
        case "more":
            return Span(first, first, first * BEYOND)
        case "less":
            return Span(first / BEYOND, first, first)
        case "about":
            return Span(first / ABOUT, first, first * ABOUT)
        case _:
            return Span(max(first - step, 0.0), first, first + step)


def _number(digits: str, magnitude: str) -> tuple[float, float]:
    """A number and half a unit of its last digit."""
    mantissa, _, exponent = digits.replace(",", "").lower().partition("e")
    size = _MAGNITUDES.get(magnitude, 1.0) * 10.0 ** int(exponent or 0)
    decimals = len(mantissa.partition(".")[2])
    return float(mantissa) * size, 0.5 * 10.0**-decimals * size


def _scale(unit: str, money: str, kind: Kind, where: str) -> float:
    """Size of a unit; plurals, "per" and "a" are understood."""
    name = money + re.sub(r"\s*(?:\b(?:per|a|an)\s+|/\s*)", "/", unit)
    singular = re.sub(r"(?<=\w)s\b", "", name)
    spellings = (name, singular, singular.lower())
    for spelling in spellings:
        if spelling in UNITS[kind.dimension]:
            return UNITS[kind.dimension][spelling]
    other = next((dimension for dimension, known in UNITS.items() for word in spellings if name and word in known), "")
    wrong = f"measures {other}" if other else f"has the unknown unit {unit!r}" if name else "has no unit"
    raise ConfigError(f"{where} {wrong}; {kind.title} is written as {_EXAMPLES[kind.dimension]!r}")
