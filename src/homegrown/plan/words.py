"""How plans are put into words: names of what they consist of, and figures as a person reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from homegrown.plan.layout import Layout
from homegrown.plan.quantity import Interval
from homegrown.plan.results import StepTime
from homegrown.report.numbers import count, duration, percent, quantity

_GAP = "\u202f"
"""Between a number and its unit."""
Tell = Callable[[float], str]
Group = Literal["compute", "exposed", "waiting"]
"""What time is spent on: computing, communication that nothing hides, waiting for others."""


@dataclass(frozen=True)
class Figure:
    """How one of a plan's figures is called and told."""

    title: str
    tell: Tell


@dataclass(frozen=True)
class Row:
    """A part of a step."""

    group: Group
    title: str
    seconds: float


DIMENSIONS: Mapping[str, str] = {
    "tp": "tensor parallelism",
    "cp": "context parallelism",
    "ep": "tokens to experts",
    "dp": "gradients and weights",
    "pp": "between pipeline stages",
    "embp": "rows of n-gram tables",
}
"""What travels, by dimension of a layout."""


def money(dollars: float) -> str:
    """US dollars: $5.58 M."""
    return f"${quantity(dollars)}"


def energy(mwh: float) -> str:
    """Megawatt-hours with the prefix that fits: 73 GWh."""
    return quantity(mwh * 1e6, "Wh")


def size(number: float) -> str:
    """Bytes with a decimal prefix: 85.5 GB."""
    return quantity(number, "B")


def days(number: float) -> str:
    """Days, or hours where there are few: 35.2 days."""
    return duration(number * 86400) if number < 1 else f"{quantity(number)}{_GAP}days"


def _in(unit: str, scale: float = 1.0) -> Tell:
    return lambda value: quantity(value * scale, unit)


FIGURES: Mapping[str, Figure] = {
    "days": Figure("Wall time", days),
    "device_hours": Figure("Device-hours", quantity),
    "mwh": Figure("Energy", energy),
    "usd": Figure("Cost", money),
    "mw": Figure("Power", _in("W", 1e6)),
    "step_s": Figure("Step", lambda value: quantity(value, "s")),
    "tokens_per_s": Figure("Tokens a second", quantity),
    "tokens_per_s_device": Figure("… and device", quantity),
    "tflops_device": Figure("FLOP/s a device", _in("FLOP/s", 1e12)),
    "mfu": Figure("Utilisation (MFU)", percent),
    "memory": Figure("Memory a device", size),
    "goodput": Figure("Goodput", percent),
    "mtbf_h": Figure("Between failures", lambda value: duration(value * 3600)),
    "checkpoint_interval_s": Figure("Between checkpoints", duration),
    "redone": Figure("Lost: work done again", percent),
    "restarting": Figure("Lost: restarting", percent),
    "waiting": Figure("Lost: no spare node", percent),
    "paused": Figure("Lost: writing snapshots", percent),
    "spares_needed": Figure("Spare nodes needed", lambda value: quantity(value, digits=2)),
    "tokens": Figure("Tokens", quantity),
}
"""Figures of a stage or of a whole run, in the order in which they are shown."""


def figure_of(key: str) -> Figure:
    """How a figure is told; one that is not known goes by its key."""
    return FIGURES.get(key, Figure(key.replace("_", " "), quantity))


def ordered(keys: Mapping[str, object]) -> list[str]:
    """Keys of figures in the order in which they are shown, unknown ones last."""
    places = {key: place for place, key in enumerate(FIGURES)}
    return sorted(keys, key=lambda key: places.get(key, len(places)))


def told(key: str, interval: Interval) -> str:
    """A figure at its best guess."""
    return figure_of(key).tell(interval.value)


def spread(key: str, interval: Interval) -> str:
    """A figure's 80 % interval; empty where both ends read like the value."""
    tell = figure_of(key).tell
    low, high = tell(interval.low), tell(interval.high)
    if low == high == tell(interval.value):
        return ""
    number, _, unit = low.rpartition(_GAP)
    shared = (
        _GAP not in number and not low.startswith("$") and high.rpartition(_GAP)[2] == unit and high.count(_GAP) == 1
    )
    return f"{number if shared and number else low} to {high}"


def step_rows(time: StepTime) -> list[Row]:
    """What a step's time goes to, parts that take none left out; they add up to the step."""
    rows = [Row("compute", name, seconds) for name, seconds in time.compute.items()]
    rows.append(Row("compute", "optimizer", time.optimizer))
    rows += [Row("exposed", DIMENSIONS.get(name, name), seconds) for name, seconds in time.exposed.items()]
    waits = {"pipeline bubble": time.bubble, "fullest expert rank": time.imbalance, "slowest device": time.straggler}
    rows += [Row("waiting", name, seconds) for name, seconds in waits.items()]
    return [row for row in rows if row.seconds > 0]


GROUPS: Mapping[Group, str] = {"compute": "computing", "exposed": "communicating", "waiting": "waiting"}


def layout_words(layout: Layout) -> str:
    """A layout in one line: TP8 PP16 DP64 EP64, 1F1B in 2 parts, micro-batches of 1, selective recomputation."""
    sizes = [
        f"{name.upper()}{size}"
        for name in ("tp", "cp", "pp", "dp", "ep", "etp", "embp")
        if (size := getattr(layout, name)) > 1
    ]
    said = [" ".join(sizes) or "one device"]
    if layout.pp > 1:
        said.append(SCHEDULES[layout.schedule] + (f" in {layout.parts} parts" if layout.parts > 1 else ""))
    said.append(f"micro-batches of {layout.micro_batch}")
    if layout.recompute != "none":
        said.append(f"{layout.recompute} recomputation")
    if layout.offload:
        said.append("optimizer in host memory")
    return ", ".join(said)


SCHEDULES = {"1f1b": "1F1B", "interleaved": "interleaved 1F1B", "zero-bubble": "zero-bubble", "dual": "DualPipe"}


def batch_words(layout: Layout) -> str:
    """A step's batch: 7,680 sequences of 8,192 tokens."""
    return f"{count(layout.batch)} sequences of {count(layout.sequence)} tokens"
