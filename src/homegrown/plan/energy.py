"""Energy and power of a run: E = N t [idle + u (load - idle) + system] PUE."""

from __future__ import annotations

import math
from dataclasses import dataclass

from homegrown.config.errors import ConfigError
from homegrown.plan.facts import Cluster
from homegrown.plan.quantity import EXPECTED, World
from homegrown.plan.upkeep import Upkeep, default_upkeep

MEGAWATT_HOUR = 3.6e9
"""Joules."""


@dataclass(frozen=True, kw_only=True)
class Power:
    """What a device draws, with its share of what is around it.

    Attributes:
        load, idle: watts of the device at work and at rest.
        system: watts of host, links and fans a device, whether it works or not.
        pue: power of the site over that of its machines (power usage effectiveness).
    """

    load: float
    idle: float
    system: float = 0.0
    pue: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.idle <= self.load < math.inf and 0 <= self.system < math.inf and 1 <= self.pue < math.inf):
            raise ConfigError(
                f"power: load {self.load:g} W, idle {self.idle:g} W, system {self.system:g} W, pue {self.pue:g}: load "
                "must be at least idle, none negative, pue at least 1"
            )

    def machine(self, busy: float) -> float:
        """Watts a device with its share of the machine, at work for a share `busy` of the time."""
        return self.idle + busy * (self.load - self.idle) + self.system

    def site(self, busy: float) -> float:
        """The same at the meter of the site."""
        return self.machine(busy) * self.pue


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy of a run at the meter of the site, and the power it draws on average."""

    joules: float
    watts: float

    @property
    def mwh(self) -> float:
        """Megawatt-hours."""
        return self.joules / MEGAWATT_HOUR


def power_of(cluster: Cluster, world: World = EXPECTED, *, upkeep: Upkeep | None = None) -> Power:
    """What a device of a cluster draws.

    Rated power is a limit, not a measurement: in training a device draws `upkeep.load` of it.
    """
    chip, here = f"chip.{cluster.chip.name}", f"cluster.{cluster.name}"
    load = (upkeep or default_upkeep()).at(world).load * world.of(f"{chip}.power", cluster.chip.power)
    return Power(
        load=load,
        idle=min(world.of(f"{chip}.idle_power", cluster.chip.idle_power), load),
        system=world.of(f"{here}.system_power", cluster.system_power),
        pue=max(world.of(f"{here}.pue", cluster.pue), 1.0),
    )


def energy(power: Power, devices: float, seconds: float, busy: float) -> Energy:
    """Energy of so many devices for so long.

    Args:
        power: of one of them.
        devices: all that are switched on, spares too.
        seconds: wall time.
        busy: share of it, over all devices, in which they compute.

    Raises:
        ConfigError: a share outside 0 to 1, or a negative number.
    """
    if not (0 <= busy <= 1 and devices >= 0 and seconds >= 0):
        raise ConfigError(
            f"energy of {devices:g} devices for {seconds:g} s, busy {busy:g} of it: numbers must not be negative, and "
            "the share must be 0 to 1"
        )
    watts = devices * power.site(busy)
    return Energy(joules=watts * seconds, watts=watts)
