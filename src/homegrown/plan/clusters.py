"""Clusters as data files describe them, checked against what is physically credible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from homegrown.config.errors import ConfigError
from homegrown.plan.chips import Defaults
from homegrown.plan.facts import Chip, Cluster, Tier
from homegrown.plan.quantity import Quantity
from homegrown.plan.reading import Entry, Origin, Reader, doubted, old, product
from homegrown.plan.units import FAILURES, LATENCY, LINK, POD_FAILURES, POWER, PUE, STORAGE, TIME

_FASTEST_CARD = 250e9
"""Bytes/s one way that no network card exceeds; 1.6 Tb/s are 200 GB/s."""


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
        title=entry.text("title", old(like, "title")),
        chip=chip(entry.text("chip", like.chip.name if like else None)),
        tiers=_tiers(entry, like, defaults),
        node=entry.whole("node", old(like, "node")),
        system_power=entry.figure("system_power", POWER, old(like, "system_power")),
        pue=_at_least_one(entry.figure("pue", PUE, old(like, "pue"))),
        failures=entry.figure("failures", FAILURES, old(like, "failures")),
        restart=entry.figure("restart", TIME, old(like, "restart")),
        storage=entry.figure("storage", STORAGE, old(like, "storage")),
        host_bandwidth=_effective(host, defaults)
        if host
        else entry.figure("host_bandwidth", LINK, old(like, "host_bandwidth")),
        pod_failures=_optional(entry, "pod_failures", POD_FAILURES, old(like, "pod_failures")),
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
        return tuple(_doubted(tier, entry.origin) for tier in like.tiers)
    if not isinstance(tables, list) or not tables:
        raise entry.missing("tiers", "a list of tables, from the smallest tier of links to the one that joins all")
    return tuple(
        _tier(table, f"{entry.where}.tiers[{place}]", entry.origin, defaults) for place, table in enumerate(tables)
    )


def _doubted(tier: Tier, origin: Origin) -> Tier:
    return replace(
        tier,
        bandwidth=doubted(tier.bandwidth, origin),
        latency=doubted(tier.latency, origin),
        pair=tier.pair and doubted(tier.pair, origin),
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
