"""Chips and clusters as data files describe them, checked against what is physically credible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

from homegrown.config.errors import ConfigError
from homegrown.plan.facts import Chip, Cluster, Tier
from homegrown.plan.quantity import Quantity
from homegrown.plan.reading import Entry, Origin, Reader, product
from homegrown.plan.units import (
    BANDWIDTH,
    FAILURES,
    LATENCY,
    LINK,
    MEMORY,
    PEAK,
    POD_FAILURES,
    POWER,
    PUE,
    SHARE,
    STORAGE,
    TIME,
)

Unit = Literal["package", "die"]
Status = Literal["sold", "announced"]
DTYPES = ("bf16", "fp8", "fp4", "int8", "fp32")
_FASTEST_CARD = 250e9
"""Bytes/s one way that no network card exceeds; 1.6 Tb/s are 200 GB/s."""


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
    power = entry.figure("power", POWER, _old(like, "power"))
    if "idle_power" in entry or like is not None:
        idle = entry.figure("idle_power", POWER, _old(like, "idle_power"))
    else:
        idle = product(power, defaults.idle_share, "a share of the rated power")
        low, high = defaults.idle_share.low, defaults.idle_share.high
        notes.append(f"idle power was not published: {low:.0%} to {high:.0%} of the rated power")
    chip = Chip(
        name=name,
        title=entry.text("title", _old(like, "title")),
        vendor=entry.text("vendor", _old(like, "vendor")),
        unit=entry.choice("unit", get_args(Unit), like.unit if like else "package"),
        peak=peak,
        ceiling={dtype: _at_most_all(ceiling.get(dtype, defaults.ceiling)) for dtype in peak},
        memory=entry.figure("memory", MEMORY, _old(like, "memory")),
        bandwidth=entry.figure("bandwidth", BANDWIDTH, _old(like, "bandwidth")),
        power=power,
        idle_power=replace(idle, high=max(idle.value, min(idle.high, power.high))),
        status=entry.choice("status", get_args(Status), like.status if like else "sold"),
        notes=tuple(notes),
    )
    entry.texts("aliases")
    entry.done()
    _check_chip(chip, entry)
    return chip


def _old(like: Chip | Cluster | None, field: str) -> Any:
    """A field of the entry that another is like, if it is like one."""
    return None if like is None else getattr(like, field)


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


def read_cluster(
    name: str, entry: Entry, like: Cluster | None, defaults: Defaults, chip: Callable[[str], Chip]
) -> Cluster:
    """A cluster; fields that its entry leaves out are those of the cluster that it is `like`, if it is like one.

    Args:
        chip: finds a chip by name.

    Raises:
        ConfigError: a field is missing, unknown, of the wrong unit, not credible, or contradicts another.
    """
    host = entry.figure("host_bandwidth", LINK) if "host_bandwidth" in entry else None
    cluster = Cluster(
        name=name,
        title=entry.text("title", _old(like, "title")),
        chip=chip(entry.text("chip", like.chip.name if like else None)),
        tiers=_tiers(entry, like, defaults),
        node=entry.whole("node", _old(like, "node")),
        system_power=entry.figure("system_power", POWER, _old(like, "system_power")),
        pue=_at_least_one(entry.figure("pue", PUE, _old(like, "pue"))),
        failures=entry.figure("failures", FAILURES, _old(like, "failures")),
        restart=entry.figure("restart", TIME, _old(like, "restart")),
        storage=entry.figure("storage", STORAGE, _old(like, "storage")),
        host_bandwidth=_effective(host, defaults)
        if host
        else entry.figure("host_bandwidth", LINK, _old(like, "host_bandwidth")),
        pod_failures=_optional(entry, "pod_failures", POD_FAILURES, _old(like, "pod_failures")),
        largest=entry.whole("largest", like.largest if like else 0, least=0),
        notes=entry.texts("notes"),
    )
    entry.texts("aliases")
    entry.done()
    _check_cluster(cluster, entry)
    return cluster


def _at_least_one(pue: Quantity) -> Quantity:
    return replace(pue, low=max(pue.low, 1.0))


def _effective(rated: Quantity, defaults: Defaults) -> Quantity:
    share = defaults.effective
    return product(rated, share, f"{share.value:.0%} of the rated bandwidth")


def _optional(entry: Entry, key: str, read: Reader, inherited: Quantity | None) -> Quantity | None:
    """A figure that may be unknown; `false` does away with an inherited one."""
    if entry.take(key) is False:
        return None
    return entry.figure(key, read, inherited) if key in entry or inherited else None


def _tiers(entry: Entry, like: Cluster | None, defaults: Defaults) -> tuple[Tier, ...]:
    tables = entry.take("tiers")
    if tables is None and like is not None:
        return like.tiers
    if not isinstance(tables, list) or not tables:
        raise entry.missing("tiers", "a list of tables, from the smallest tier of links to the one that joins all")
    return tuple(
        _tier(table, f"{entry.where}.tiers[{place}]", entry.origin, defaults) for place, table in enumerate(tables)
    )


def _tier(table: Mapping[str, Any], where: str, origin: Origin, defaults: Defaults) -> Tier:
    entry = Entry(table, where, origin)
    if ("bandwidth" in entry) == ("effective" in entry):
        raise ConfigError(
            f"{where}: needs either 'bandwidth', the rated one, as in {LINK.example!r}, or 'effective', what "
            "collectives reach of it"
        )
    if "effective" in entry:
        bandwidth, pair = entry.figure("effective", LINK), _optional(entry, "pair", LINK, None)
    else:
        bandwidth = _effective(entry.figure("bandwidth", LINK), defaults)
        rated = _optional(entry, "pair", LINK, None)
        pair = _effective(rated, defaults) if rated else None
    tier = Tier(
        name=entry.text("name"),
        size=entry.whole("size", least=0),
        bandwidth=bandwidth,
        latency=entry.figure("latency", LATENCY),
        pair=pair,
    )
    entry.done()
    return tier


def _check_cluster(cluster: Cluster, entry: Entry) -> None:
    tiers = cluster.tiers
    sizes = [tier.size for tier in tiers]
    if sizes[-1] != 0 or 0 in sizes[:-1]:
        raise ConfigError(
            f"{entry.where}: sizes of tiers are {sizes}; the last must be 0, which joins all, and no other"
        )
    for inner, outer in pairwise(sizes[:-1]):
        if outer <= inner or outer % inner:
            raise ConfigError(f"{entry.where}: a tier of {outer} devices must hold several whole tiers of {inner}")
    for size in sizes[:-1]:
        if size % cluster.node and cluster.node % size:
            raise ConfigError(
                f"{entry.at('node')} = {cluster.node}: must divide a tier of {size}, or be several of them"
            )
    if len({tier.name for tier in tiers}) < len(tiers):
        raise ConfigError(f"{entry.where}: tiers must have names of their own: {[tier.name for tier in tiers]}")
    limit, what = cluster.chip.bandwidth.value, "the chip's memory"
    for tier in tiers:
        if tier.bandwidth.value > limit:
            raise ConfigError(
                f"{entry.where}: tier {tier.name!r} carries {tier.bandwidth.value / 1e9:,.4g} GB/s one way, more than "
                f"{what} ({limit / 1e9:,.4g}); are the units right?"
            )
        limit, what = tier.bandwidth.value, f"tier {tier.name!r} inside it"
        _check_pair(tier, entry)
    if tiers[-1].bandwidth.value > _FASTEST_CARD:
        raise ConfigError(
            f"{entry.where}: tier {tiers[-1].name!r} joins all and carries {tiers[-1].bandwidth.value / 1e9:,.4g} GB/s "
            "one way, which no network card does (1.6 Tb/s are 200 GB/s); bits taken for bytes?"
        )


def _check_pair(tier: Tier, entry: Entry) -> None:
    if tier.pair is None:
        return
    pair, whole, peers = tier.pair.value, tier.bandwidth.value, max(tier.size - 1, 1)
    if pair > whole or (tier.size and pair * peers < 0.95 * whole):
        raise ConfigError(
            f"{entry.where}: tier {tier.name!r} has {pair / 1e9:,.4g} GB/s to each of {peers} peers and "
            f"{whole / 1e9:,.4g} GB/s together; the pairs must add up to at least that, and none exceed it"
        )


def priced(chip: Chip, rental: Mapping[str, Quantity], capital: Mapping[str, Quantity], facts: tuple[str, ...]) -> Chip:
    """A chip with its prices and with dated sentences on its sale."""
    return replace(chip, rental=rental.get(chip.name), capital=capital.get(chip.name), facts=facts)
