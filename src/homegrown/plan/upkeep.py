"""What keeping a cluster at work takes, as far as nobody publishes it cluster by cluster."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources

from homegrown.config.files import read_toml
from homegrown.plan.catalogue import Catalogue
from homegrown.plan.quantity import Quantity, World
from homegrown.plan.reading import read_constants


@dataclass(frozen=True, kw_only=True)
class UpkeepAt:
    """`Upkeep` in one world."""

    pause: float
    repair: float
    pod_repair: float
    staff: float
    load: float
    electricity: float
    lifetime: float


@dataclass(frozen=True, kw_only=True)
class Upkeep:
    """General constants of failures, energy and cost; the same for every run and cluster.

    Attributes:
        pause: seconds that training stands still for a snapshot beside the copy to the host.
        repair, pod_repair: seconds until a lost node (pod) can be used again.
        staff: cost of people, building and money over the write-off of the machines in the same time.
        load: watts that a device draws in training over its rated watts.
        electricity: US dollars a joule.
        lifetime: seconds over which bought machines are written off.
    """

    pause: Quantity
    repair: Quantity
    pod_repair: Quantity
    staff: Quantity
    load: Quantity
    electricity: Quantity
    lifetime: Quantity

    def at(self, world: World) -> UpkeepAt:
        """Its values in one world."""
        return UpkeepAt(
            **{each.name: world.of(f"upkeep.{each.name}", getattr(self, each.name)) for each in fields(self)}
        )


def upkeep_of(site: Mapping[str, Quantity]) -> Upkeep:
    """The package's own constants, and `load`, `electricity` and `lifetime` of a site, as `Prices.site` has them."""
    with resources.as_file(resources.files("homegrown.plan") / "data" / "upkeep.toml") as path:
        own = read_constants(read_toml(path), path.name)
    return Upkeep(**own, **{name: site[name] for name in ("load", "electricity", "lifetime")})


@functools.cache
def default_upkeep() -> Upkeep:
    """All of them as the package has them."""
    return upkeep_of(Catalogue.load().prices.site)
