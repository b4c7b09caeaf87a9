"""The figures a claim may state: what each is called, what it is measured in, and what would be absurd."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass

from homegrown.config.errors import ConfigError
from homegrown.plan.audit.span import Span
from homegrown.report import numbers

DAY = 86400.0
HOUR = 3600.0
GAP = "\u202f"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Kind:
    """A kind of figure.

    Attributes:
        title: as in a sentence, without article.
        dimension: what its units measure; a key of `wording.UNITS`.
        least, most: in SI units; outside of them a figure is a mistake.
        told: one as a person reads it.
        whole: of the whole run (or a whole part of it): those of the parts add up to it.
        fixed: the same in all parts of a run.
    """

    title: str
    dimension: str
    least: float
    most: float
    told: Callable[[float], str]
    whole: bool = False
    fixed: bool = False

    def span(self, span: Span) -> str:
        """An interval as a person reads it."""
        if span.factor < 1 + 5e-3:
            return self.told(span.value)
        if span.low == 0:
            return f"at most {self.told(span.high)}"
        if math.isinf(span.high):
            return f"at least {self.told(span.low)}"
        low, high = self.told(span.low), self.told(span.high)
        number, gap, unit = low.partition(GAP)
        return f"{number if gap and high.endswith(gap + unit) else low} to {high}"


def scientific(value: float, unit: str) -> str:
    """A figure beyond all prefixes: 1.09×10²⁵ FLOP."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}×10{str(int(exponent)).translate(_SUPERSCRIPTS)}{GAP}{unit}"


def _named(unit: str) -> Callable[[float], str]:
    return lambda value: f"{numbers.parameters(value)}{GAP}{unit}".rstrip()


def _scaled(scale: float, unit: str) -> Callable[[float], str]:
    return lambda value: f"{numbers.parameters(value / scale)}{GAP}{unit}"


def _si(unit: str) -> Callable[[float], str]:
    return lambda value: numbers.quantity(value, unit)


def _time(value: float) -> str:
    return f"{numbers.quantity(value / DAY)}{GAP}days" if value >= 2 * DAY else numbers.duration(value)


def _dollars(value: float) -> str:
    return f"${numbers.parameters(value)}"


def _hourly(value: float) -> str:
    return f"${value * HOUR:.2f}{GAP}per device-hour"


def _watt_hours(value: float) -> str:
    return numbers.quantity(value / HOUR, "Wh")


def _often(value: float) -> str:
    return f"{numbers.quantity(value * DAY)}{GAP}a day"


def _failing(value: float) -> str:
    return f"{numbers.quantity(value * DAY * 1000)}{GAP}per 1000 node-days"


def _share(value: float) -> str:
    return numbers.percent(value, 1 if value >= 0.01 else 2)


KINDS = {
    "tokens": Kind("tokens trained on", "count", 1e6, 1e18, _named("tokens"), whole=True),
    "total": Kind("parameters in all", "count", 1e5, 1e15, _named("parameters"), fixed=True),
    "active": Kind("parameters a token uses on average", "count", 1e5, 1e15, _named("parameters"), fixed=True),
    "active_least": Kind("parameters a token uses at least", "count", 1e5, 1e15, _named("parameters"), fixed=True),
    "active_most": Kind("parameters a token uses at most", "count", 1e5, 1e15, _named("parameters"), fixed=True),
    "context": Kind("tokens of a sequence", "count", 1, 1e9, _named("tokens")),
    "beyond": Kind("FLOPs of a token over six per active parameter", "number", 0.5, 1e4, numbers.quantity),
    "flops_per_token": Kind("training FLOPs of a token", "work", 1e5, 1e18, _si("FLOP")),
    "flops": Kind("training FLOPs in all", "work", 1e12, 1e32, lambda value: scientific(value, "FLOP"), whole=True),
    "devices": Kind("devices", "count", 1, 1e8, _named("devices")),
    "time": Kind("duration", "time", 60, 20 * 365 * DAY, _time, whole=True),
    "device_time": Kind("device-hours", "device time", 60, 1e17, _scaled(HOUR, "device-hours"), whole=True),
    "pace": Kind("tokens a second of all devices", "pace", 1e-3, 1e12, _si("tokens/s")),
    "pace_device": Kind("tokens a second of a device", "pace", 1e-3, 1e9, _si("tokens/s")),
    "time_per_token": Kind(
        "device-hours per trillion tokens", "device time per token", 1e-12, 1e3, _scaled(HOUR / 1e12, "device-hours/T")
    ),
    "rate": Kind("model FLOP/s of a device", "work rate", 1e6, 1e18, _si("FLOP/s")),
    "hardware_rate": Kind("FLOP/s of a device, recomputation included", "work rate", 1e6, 1e18, _si("FLOP/s")),
    "recompute": Kind("FLOPs done over FLOPs needed", "number", 1, 2, numbers.quantity),
    "peak": Kind("peak FLOP/s of a device", "work rate", 1e9, 1e18, _si("FLOP/s"), fixed=True),
    "utilisation": Kind("utilisation (model FLOPs)", "share", 1e-6, 1, _share),
    "hardware_utilisation": Kind("utilisation (recomputation included)", "share", 1e-6, 1, _share),
    "availability": Kind("share of the time that was training", "share", 1e-3, 1, lambda value: _share(value)),
    "lost": Kind("share of the time lost to faults", "share", 1e-9, 1, _share),
    "power": Kind("power of a device with its share of the site", "power", 1, 1e5, _si("W"), fixed=True),
    "site_power": Kind("power of all devices and their site", "power", 1, 1e11, _si("W")),
    "energy": Kind("energy", "energy", 3.6e6, 1e18, _watt_hours, whole=True),
    "price": Kind("price", "price", 1e-3 / HOUR, 1e3 / HOUR, _hourly, fixed=True),
    "cost": Kind("cost", "money", 1, 1e12, _dollars, whole=True),
    "batch": Kind("tokens of a step", "count", 1, 1e10, _named("tokens")),
    "step": Kind("time of a step", "time", 1e-4, 1e5, numbers.duration),
    "nodes": Kind("nodes", "count", 1, 1e8, _named("nodes")),
    "node": Kind("devices of a node", "count", 1, 1e5, _named("devices"), fixed=True),
    "faults": Kind("interruptions", "frequency", 1e-10, 1e3, _often),
    "fault_interval": Kind("time between interruptions", "time", 1e-3, 1e10, numbers.duration),
    "fault_rate": Kind("interruptions of a node", "node frequency", 1e-13, 1, _failing),
    "repair": Kind("time lost by an interruption", "time", 1e-2, 1e7, numbers.duration),
    "interruptions": Kind("interruptions counted", "count", 1, 1e9, _named("interruptions")),
    "window": Kind("time over which they were counted", "time", 60, 20 * 365 * DAY, _time),
}
"""Figures by name; devices are counted as the claim counts them."""

PREFERENCE = (
    "device_time", "utilisation", "hardware_utilisation", "energy", "cost", "rate", "hardware_rate", "flops",
    "pace_device", "time_per_token", "time", "availability", "lost", "site_power", "step", "fault_interval",
    "interruptions", "pace", "tokens", "active", "total",
)  # fmt: skip
"""Which of several figures a test is told about: the one most readily compared with the others."""


def preference(name: str) -> int:
    """Place of a figure in `PREFERENCE`; those that are not in it come last."""
    return PREFERENCE.index(name) if name in PREFERENCE else len(PREFERENCE)


def own(title: str, like: str, where: str) -> Kind:
    """The kind of a figure that a claim brings along, measured as one that is known; without, as a number.

    Raises:
        ConfigError: there is none of that name.
    """
    if not like:
        return Kind(title, "count", 1e-12, 1e30, numbers.parameters)
    known = kind(like, where)
    most = known.most if known.dimension == "share" else 1e30
    return Kind(title, known.dimension, 1e-12, most, known.told)


def kind(name: str, where: str = "") -> Kind:
    """The kind of a figure.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in KINDS:
        close = difflib.get_close_matches(name, KINDS, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"{where}no figure {name!r}{hint}; there are: {', '.join(KINDS)}")
    return KINDS[name]
