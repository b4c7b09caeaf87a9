"""From the time of a step to the time, energy and cost of a run, in one world."""

from __future__ import annotations

from dataclasses import dataclass

from homegrown.plan.cost import Basis, cost
from homegrown.plan.energy import energy, power_of
from homegrown.plan.facts import Cluster
from homegrown.plan.failures import DAY, Failures, failures_of
from homegrown.plan.goodput import Goodput, Saving, goodput, saving_of
from homegrown.plan.quantity import EXPECTED, World
from homegrown.plan.results import StepTime
from homegrown.plan.upkeep import Upkeep


@dataclass(frozen=True, kw_only=True)
class Upkeeping:
    """How a run is kept going.

    Attributes:
        memory: a peer keeps a copy of each snapshot in its memory.
        asynchronous: training goes on while a snapshot is written to storage.
        software: interruptions a day of the whole run beside those that the cluster's rate counts.
        limited_spares: nodes beyond those that the layout uses are all the spares there are, and the run waits for a
            repair when they have run out; else there is always one more.
        basis: of the cost; see `cost.basis_of`.
        upkeep: general constants; the package's own if not given.
    """

    memory: bool = True
    asynchronous: bool = True
    software: float = 0.0
    limited_spares: bool = False
    basis: Basis | None = None
    upkeep: Upkeep | None = None


PLAIN = Upkeeping()
"""Asynchronous snapshots with copies in memory; enough spares."""


def computing(time: StepTime) -> float:
    """Share of a step in which a device computes."""
    return (sum(time.compute.values()) + time.optimizer) / time.seconds


def kept_going(
    cluster: Cluster,
    step: float,
    *,
    devices: int,
    used: int,
    state: float,
    world: World = EXPECTED,
    how: Upkeeping = PLAIN,
) -> tuple[Failures, Saving, Goodput]:
    """What interrupts a run whose step takes so many seconds, how it is saved, and what becomes of its time."""
    spares, spare_pods = ((devices - used) // cluster.node, 0) if how.limited_spares else (None, None)
    failures = failures_of(
        cluster, used, world,
        upkeep=how.upkeep, state=state, software=how.software, spares=spares, spare_pods=spare_pods,
    )  # fmt: skip
    saving = saving_of(cluster, state, world, upkeep=how.upkeep, memory=how.memory, asynchronous=how.asynchronous)
    return failures, saving, goodput(failures, saving, step=step)


def outlook(
    cluster: Cluster,
    time: StepTime,
    *,
    tokens: float,
    devices: int,
    used: int,
    state: float,
    world: World = EXPECTED,
    how: Upkeeping = PLAIN,
) -> dict[str, float]:
    """What a run (or a stage of one) comes to.

    Args:
        cluster: where it runs.
        time: of its step, in this world.
        tokens: of the run.
        devices, used: that it keeps for itself, and that its layout computes on.
        state: bytes a device of what a checkpoint holds.
        world: gives uncertain figures their values.
        how: it is kept going.

    Returns:
        `mtbf_h`, `checkpoint_interval_s`, `goodput` and what is lost to `redone` work, `restarting`, `waiting` and
        snapshots (`paused`), as shares of the time; `spares_needed` nodes; `days`, `device_hours`, `mwh`, `mw` on
        average, and, where there is a price, `usd`.
    """
    failures, _, kept = kept_going(cluster, time.seconds, devices=devices, used=used, state=state, world=world, how=how)
    seconds = tokens / time.tokens * time.seconds / kept.share
    busy = computing(time) * kept.running * used / devices
    used_energy = energy(power_of(cluster, world, upkeep=how.upkeep), devices, seconds, busy)
    figures = {
        "mtbf_h": kept.mttf / 3600,
        "checkpoint_interval_s": kept.interval,
        "goodput": kept.share,
        "redone": kept.redone,
        "restarting": kept.restarting,
        "waiting": kept.waiting,
        "paused": kept.paused,
        "spares_needed": float(failures.spares_needed),
        "days": seconds / DAY,
        "device_hours": devices * seconds / 3600,
        "mwh": used_energy.mwh,
        "mw": used_energy.watts / 1e6,
    }
    price = cost(cluster, devices, seconds, used_energy.joules, world, upkeep=how.upkeep, basis=how.basis)
    return figures if price is None else figures | {"usd": price.dollars}
