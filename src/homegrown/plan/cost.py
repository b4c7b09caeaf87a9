"""What a run costs in US dollars: rented by the hour, or as a share of machines that were bought, and their power."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from homegrown.config.errors import ConfigError
from homegrown.plan.facts import Cluster
from homegrown.plan.quantity import EXPECTED, World
from homegrown.plan.upkeep import Upkeep, default_upkeep

Basis = Literal["rented", "owned"]
HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """US dollars of a run, and by what reckoning; `machines`, `electricity` and `staff` are its parts where owned."""

    basis: Basis
    dollars: float
    machines: float = 0.0
    electricity: float = 0.0
    staff: float = 0.0


def basis_of(cluster: Cluster, wanted: Basis | None = None) -> Basis | None:
    """How the cost of a cluster can be reckoned: as wanted, else by rent, else as bought; None, there is no price.

    Raises:
        ConfigError: there is no price for what is wanted.
    """
    known = {"rented": cluster.chip.rental, "owned": cluster.chip.capital}
    if wanted is None:
        return "rented" if cluster.chip.rental else "owned" if cluster.chip.capital else None
    if known[wanted] is None:
        field = "rental" if wanted == "rented" else "capital"
        raise ConfigError(
            f"cost {wanted}: no price is known for {cluster.chip.title}; give its `{field}` in a data file of your own"
        )
    return wanted


def cost(
    cluster: Cluster,
    devices: float,
    seconds: float,
    joules: float,
    world: World = EXPECTED,
    *,
    upkeep: Upkeep | None = None,
    basis: Basis | None = None,
) -> Cost | None:
    """What a run costs; None where there is no price.

    Rent is for devices by the hour, and includes their power. Owners write off the machines evenly over their life,
    whether they run or not, and pay for people, building and money (`upkeep.staff` over that) and for each joule.

    Args:
        cluster: where it runs.
        devices: all that the run keeps for itself, spares too.
        seconds: wall time.
        joules: of it at the site's meter.
        world: gives uncertain figures their values.
        upkeep: the package's own if not given.
        basis: see `basis_of`.
    """
    chosen = basis_of(cluster, basis)
    chip = f"chip.{cluster.chip.name}"
    if chosen == "rented" and cluster.chip.rental is not None:
        rent = world.of(f"{chip}.rental", cluster.chip.rental)
        return Cost(basis="rented", dollars=devices * seconds / HOUR * rent)
    if chosen == "owned" and cluster.chip.capital is not None:
        figures = (upkeep or default_upkeep()).at(world)
        machines = devices * world.of(f"{chip}.capital", cluster.chip.capital) * seconds / figures.lifetime
        staff, power = machines * figures.staff, joules * figures.electricity
        return Cost(basis="owned", dollars=machines + staff + power, machines=machines, electricity=power, staff=staff)
    return None
