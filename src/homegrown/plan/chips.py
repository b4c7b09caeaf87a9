"""Chips as data files describe them, checked against what is physically credible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from homegrown.config.errors import ConfigError
from homegrown.plan.facts import Chip
from homegrown.plan.quantity import Quantity
from homegrown.plan.reading import Entry, Origin, Reader, old, product
from homegrown.plan.units import BANDWIDTH, MEMORY, PEAK, POWER, SHARE

Unit = Literal["package", "die"]
Status = Literal["sold", "announced"]
DTYPES = ("bf16", "fp8", "fp4", "int8", "fp32")


@dataclass(frozen=True)
class Defaults:
    """What is taken for figures that an entry leaves out.

    Attributes:
        ceiling: share of the peak that large matrix products reach.
        idle_share: power of an idle device over its rated power.
        effective: share of a link's rated bandwidth that collectives reach.
    """

    ceiling: Quantity
    idle_share: Quantity
    effective: Quantity

    @classmethod
    def read(cls, table: Mapping[str, Any], where: str) -> Defaults:
        """From a data file's table."""
        entry = Entry(table, where, Origin())
        found = cls(*(entry.figure(name, SHARE) for name in ("ceiling", "idle_share", "effective")))
        entry.done()
        return found


def read_chip(name: str, entry: Entry, like: Chip | None, defaults: Defaults) -> Chip:
    """A chip; fields that its entry leaves out are those of the chip that it is `like`, if it is like one.

    Raises:
        ConfigError: a field is missing, unknown, of the wrong unit, not credible, or contradicts another.
    """
    notes = list(entry.texts("notes"))
    peak = entry.figures("peak", lambda _: PEAK, DTYPES, like.peak if like else {})
    if "bf16" not in peak:
        raise entry.missing("peak.bf16", f"{PEAK.what}, as in {PEAK.example!r} (fp16's where a chip has no bf16)")
    measured = {} if like is None else {dtype: share for dtype, share in like.ceiling.items() if dtype in peak}
    ceiling = entry.figures("ceiling", lambda dtype: _ceiling(peak, dtype), DTYPES, measured)
    unmeasured = [dtype for dtype in peak if dtype not in ceiling]
    if unmeasured:
        low, high = defaults.ceiling.low, defaults.ceiling.high
        notes.append(
            f"large products in {', '.join(unmeasured)} were not measured: {low:.0%} to {high:.0%} of the peak"
        )
    power = entry.figure("power", POWER, old(like, "power"))
    if "idle_power" in entry or like is not None:
        idle = entry.figure("idle_power", POWER, old(like, "idle_power"))
    else:
        idle = product(power, defaults.idle_share, "a share of the rated power")
        low, high = defaults.idle_share.low, defaults.idle_share.high
        notes.append(f"idle power was not published: {low:.0%} to {high:.0%} of the rated power")
    chip = Chip(
        name=name,
        title=entry.text("title", old(like, "title")),
        vendor=entry.text("vendor", old(like, "vendor")),
        unit=entry.choice("unit", get_args(Unit), like.unit if like else "package"),
        peak=peak,
        ceiling={dtype: _at_most_all(ceiling.get(dtype, defaults.ceiling)) for dtype in peak},
        memory=entry.figure("memory", MEMORY, old(like, "memory")),
        bandwidth=entry.figure("bandwidth", BANDWIDTH, old(like, "bandwidth")),
        power=power,
        idle_power=replace(idle, high=max(idle.value, min(idle.high, power.high))),
        status=entry.choice("status", get_args(Status), like.status if like else "sold"),
        notes=tuple(notes),
    )
    entry.texts("aliases")
    entry.done()
    _check_chip(chip, entry)
    return chip


def _ceiling(peak: Mapping[str, Quantity], dtype: str) -> Reader:
    """Reads a ceiling: a share of the peak, or a throughput, which becomes one."""

    def read(value: object, where: str) -> float:
        if dtype not in peak:
            raise ConfigError(f"{where} = {value!r}: the chip has no peak in {dtype} that this could be a share of")
        if SHARE.split(value, where)[1] in ("", "%"):
            return SHARE(value, where)
        share = PEAK(value, where) / peak[dtype].value
        if share > 1:
            raise ConfigError(
                f"{where} = {value!r}: must not be above the peak of {peak[dtype].value / 1e12:,.4g} TFLOP/s in {dtype}"
            )
        return share

    return read


def _at_most_all(share: Quantity) -> Quantity:
    return replace(share, high=min(share.high, 1.0))


def _check_chip(chip: Chip, entry: Entry) -> None:
    bf16 = chip.peak["bf16"].value
    for dtype in ("fp8", "fp4", "int8"):
        if dtype in chip.peak and chip.peak[dtype].value < 0.99 * bf16:
            raise ConfigError(
                f"{entry.at('peak')}.{dtype} = {chip.peak[dtype].value / 1e12:,.4g} TFLOP/s: must not be below bf16's "
                f"{bf16 / 1e12:,.4g}"
            )
    if chip.idle_power.value >= chip.power.value:
        raise ConfigError(
            f"{entry.at('idle_power')} = {chip.idle_power.value:g} W: must be below the power under load, "
            f"{chip.power.value:g} W"
        )
    ratios: tuple[tuple[str, str, float, float, float], ...] = (
        ("bandwidth", "operations of the bf16 peak for each byte read", bf16 / chip.bandwidth.value, 1, 3000),
        ("bandwidth", "seconds to read the memory once", chip.memory.value / chip.bandwidth.value, 5e-4, 100),
        ("power", "bf16 operations for each joule", bf16 / chip.power.value, 1e7, 2e13),
    )
    for key, what, ratio, low, high in ratios:
        if not low <= ratio <= high:
            raise ConfigError(
                f"{entry.at(key)}: it makes {ratio:.3g} {what}, and credible are {low:g} to {high:g}; are the units "
                "right?"
            )


def priced(chip: Chip, rental: Mapping[str, Quantity], capital: Mapping[str, Quantity], facts: tuple[str, ...]) -> Chip:
    """A chip with its prices and with dated sentences on its sale."""
    return replace(chip, rental=rental.get(chip.name), capital=capital.get(chip.name), facts=facts)
