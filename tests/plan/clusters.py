"""Clusters with round numbers, for tests of what is computed from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from homegrown.plan.facts import Chip, Cluster, Tier
from homegrown.plan.quantity import Quantity


def exactly(value: float) -> Quantity:
    """A figure that is the same in every world."""
    return Quantity(value=value, low=value, high=value)


CHIP = Chip(
    name="round",
    title="Round Chip",
    vendor="nobody",
    unit="package",
    peak={"bf16": exactly(1e15), "fp8": exactly(2e15)},
    ceiling={"bf16": exactly(0.8)},
    memory=exactly(80e9),
    bandwidth=exactly(3e12),
    power=exactly(1000.0),
    idle_power=exactly(100.0),
)

CLUSTER = Cluster(
    name="round-pods",
    title="Round pods",
    chip=CHIP,
    tiers=(
        Tier(name="node", size=8, bandwidth=exactly(400e9), latency=exactly(1e-6)),
        Tier(name="pod", size=64, bandwidth=exactly(100e9), latency=exactly(2e-6)),
        Tier(name="network", size=0, bandwidth=exactly(50e9), latency=exactly(5e-6)),
    ),
    node=8,
    system_power=exactly(300.0),
    pue=exactly(1.1),
    failures=exactly(5e-3),
    restart=exactly(300.0),
    storage=exactly(100e6),
    host_bandwidth=exactly(25e9),
)


def cluster(**changes: Any) -> Cluster:
    """The round cluster with other fields; those of the chip begin with `chip_`."""
    chip = {name.removeprefix("chip_"): value for name, value in changes.items() if name.startswith("chip_")}
    rest = {name: value for name, value in changes.items() if not name.startswith("chip_")}
    return replace(CLUSTER, chip=replace(CHIP, **chip), **rest)
