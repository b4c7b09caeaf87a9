"""Failures, energy and cost of published runs, replayed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from homegrown.plan.cost import cost
from homegrown.plan.days import computing
from homegrown.plan.energy import Power, power_of
from homegrown.plan.failures import failures_of
from homegrown.plan.goodput import goodput, saving_of
from homegrown.plan.quantity import TENTH, Quantity, World
from homegrown.plan.validate.runs import Cost, Energy, Parts, Reliability
from homegrown.plan.validate.scene import Replay, Scene
from homegrown.plan.validate.training import Job


def fail(job: Reliability, scene: Scene) -> Replay:
    """Time between failures, their number in some time, and the share of the time that trains the model."""
    cluster = scene.cluster(job.cluster)
    if job.rate is not None:
        cluster = replace(cluster, name=f"{cluster.name} as published", failures=job.rate)
    if job.restart is not None:
        cluster = replace(cluster, name=f"{cluster.name}, restart as published", restart=job.restart)
    devices = job.nodes * cluster.node

    def replay(world: World, number: int) -> Mapping[str, float]:
        failures = failures_of(cluster, devices, world)
        found = {"mtbf": failures.mttf}
        if job.seconds:
            expected = job.seconds / failures.mttf
            found["interruptions"] = expected * world.of("run.luck", _luck(expected))
        if job.state is not None:
            saving = saving_of(cluster, world.of("run.state", job.state), world)
            found["effective"] = goodput(failures, saving, interval=job.interval or None).share
        return found

    return replay


def _luck(expected: float) -> Quantity:
    """What chance makes of a count that is this large on average: Poisson's spread, about normal for large counts."""
    tenth = 1 + TENTH / math.sqrt(expected)
    return Quantity(value=1.0, low=1 / tenth, high=tenth, source="Poisson distribution")


def consume(job: Energy, scene: Scene) -> Replay:
    """Power of devices under load, and what they use in some time or for a training job."""
    cluster = scene.cluster(job.cluster)
    if job.pue is not None:
        cluster = replace(cluster, name=f"{cluster.name} as published", pue=job.pue)
    training = None if job.training is None else Job(job.training, scene)

    def replay(world: World, number: int) -> Mapping[str, float]:
        busy, device_seconds = 1.0, job.devices * job.seconds
        if training is not None:
            busy = computing(training.time(training.case(number), world))
            device_seconds = training.figures(world, number)["device_hours"]
        watts = metered(power_of(cluster, world), busy, job.parts, published_pue=job.pue is not None)
        found = {"power": watts * job.devices}
        return found | ({"energy": watts * device_seconds} if device_seconds else {})

    return replay


def metered(power: Power, busy: float, parts: Parts, *, published_pue: bool) -> float:
    """Watts of a device with what else the meter sees; a published PUE multiplies whatever was metered."""
    if parts == "site":
        return power.site(busy)
    watts = power.machine(busy) - (power.system if parts == "device" else 0.0)
    return watts * power.pue if published_pue else watts


def pay(job: Cost, scene: Scene) -> Replay:
    """Cost of device-hours that are rented."""
    cluster = scene.cluster(job.cluster)
    if job.rental is not None:
        chip = replace(cluster.chip, name=f"{cluster.chip.name} as published", rental=job.rental)
        cluster = replace(cluster, chip=chip)

    def replay(world: World, number: int) -> Mapping[str, float]:
        price = cost(cluster, 1.0, job.device_seconds, 0.0, world, basis="rented")
        return {} if price is None else {"usd": price.dollars}

    return replay
