"""What a run can publish: the figures' names, units, and how they are shown and compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from homegrown.plan.units import COUNT, ENERGY, MEMORY, PEAK, SHARE, TIME, Dimension

WORK = Dimension("work of a token", {"GFLOP": 1e9, "TFLOP": 1e12}, "249.8 GFLOP", ("1e-6 GFLOP", "1e9 TFLOP"))
PAID = Dimension("device-hours", {"h": 3600.0, "d": 86400.0}, "2.664e6 h", ("1e-3 h", "1e12 h"))
POWER = Dimension("a power", {"W": 1.0, "kW": 1e3, "MW": 1e6}, "7.92 kW", ("0.5 W", "1e5 MW"))
MONEY = Dimension("an amount of money", {"USD": 1.0, "kUSD": 1e3, "MUSD": 1e6}, "5.576 MUSD", ("1e-6 USD", "1e6 MUSD"))
RATIO = Dimension("a ratio", {}, "1.08", ("1e-6", "1e6"), bare=True)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Something that is published about a run and that the planner says, too.

    Attributes:
        title: what it is.
        group: under which summary its errors come.
        kind: its dimension; shown: the unit of it that tables show.
        points: an error is a difference in points of a share, and a tolerance too; else both are relative.
    """

    title: str
    group: str
    kind: Dimension
    shown: str = ""
    points: bool = False

    def text(self, value: float, unit: bool = True) -> str:
        """A value as tables show it, with or without its unit."""
        number = significant(value / self.kind.units.get(self.shown, 1.0))
        return f"{number} {self.shown}" if unit and self.shown else number


FIGURES: Mapping[str, Figure] = {
    "step": Figure(title="step time", group="training speed", kind=TIME, shown="s"),
    "tokens_per_s": Figure(title="tokens/s", group="training speed", kind=COUNT),
    "tokens_per_s_device": Figure(title="tokens/s a device", group="training speed", kind=COUNT),
    "flops_device": Figure(title="FLOP/s a device", group="training speed", kind=PEAK, shown="TFLOP/s"),
    "mfu": Figure(title="utilisation", group="training speed", kind=SHARE, shown="%"),
    "device_hours": Figure(title="device-hours", group="training speed", kind=PAID, shown="h"),
    "days": Figure(title="days", group="training speed", kind=TIME, shown="d"),
    "efficiency": Figure(title="efficiency", group="scaling", kind=SHARE, shown="%", points=True),
    "flops_token": Figure(title="FLOPs a token", group="work", kind=WORK, shown="GFLOP"),
    "parameters": Figure(title="parameters", group="work", kind=COUNT),
    "active": Figure(title="active parameters", group="work", kind=COUNT),
    "activations": Figure(title="activations", group="activations", kind=MEMORY, shown="GiB"),
    "state": Figure(title="weights, gradients, optimizer", group="other memory", kind=MEMORY, shown="GiB"),
    "memory": Figure(title="memory of a device", group="other memory", kind=MEMORY, shown="GiB"),
    "kv_tokens": Figure(title="tokens in the cache", group="other memory", kind=COUNT),
    "prefill_tokens_per_s": Figure(title="prefill tokens/s", group="serving", kind=COUNT),
    "prefill_tokens_per_s_device": Figure(title="prefill tokens/s a device", group="serving", kind=COUNT),
    "decode_tokens_per_s_device": Figure(title="decode tokens/s a device", group="serving", kind=COUNT),
    "input_tokens_per_s_unit": Figure(title="prompt tokens/s a unit", group="serving", kind=COUNT),
    "output_tokens_per_s_unit": Figure(title="output tokens/s a unit", group="serving", kind=COUNT),
    "ttft": Figure(title="time to first token", group="serving", kind=TIME, shown="s"),
    "tpot": Figure(title="time per output token", group="serving", kind=TIME, shown="ms"),
    "mtbf": Figure(title="time between failures", group="reliability", kind=TIME, shown="h"),
    "interruptions": Figure(title="interruptions", group="reliability", kind=COUNT),
    "effective": Figure(title="effective time", group="reliability", kind=SHARE, shown="%", points=True),
    "power": Figure(title="power", group="energy", kind=POWER, shown="kW"),
    "energy": Figure(title="energy", group="energy", kind=ENERGY, shown="MWh"),
    "usd": Figure(title="cost", group="cost", kind=MONEY, shown="USD"),
    "usd_per_million": Figure(title="cost of a million output tokens", group="cost", kind=MONEY, shown="USD"),
    "ratio": Figure(title="ratio", group="ratios", kind=RATIO),
}
"""Figures by the name that files use."""

GROUPS: tuple[str, ...] = tuple(dict.fromkeys(figure.group for figure in FIGURES.values()))
"""Groups of figures, in the order of tables."""


def significant(value: float, digits: int = 4) -> str:
    """A number rounded to so many significant digits, without an exponent, thousands grouped."""
    if not value or not math.isfinite(value):
        return "0" if not value else "-"
    rounded = float(f"{value:.{digits - 1}e}")
    text = f"{rounded:,.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
