"""A plan of a training run: the best layout of each stage, and what it comes to, with intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from homegrown.config.errors import ConfigError
from homegrown.plan.constants import Constants
from homegrown.plan.course import Course, Leg, usual_batch
from homegrown.plan.days import PLAIN, Upkeeping, outlook
from homegrown.plan.enumerate import BATCH_SLACK, space_on
from homegrown.plan.facts import Cluster, Machine, Shape
from homegrown.plan.memory import memory
from homegrown.plan.pins import Pins
from homegrown.plan.quantity import EXPECTED, Interval, World, intervals
from homegrown.plan.results import Candidate, Memory, Plan, Stage, StepTime
from homegrown.plan.search import Found, search
from homegrown.plan.step import step_time

Tick = Callable[[str, float], None]
"""Told what is done at the moment, and which share of the whole plan is behind it."""
SUMMED = ("days", "device_hours", "mwh", "usd")
"""Figures of stages that add up to those of the plan."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is asked of a plan beside the run itself.

    Attributes:
        pins: what is decided about layouts.
        batch: tokens of a step; 0 takes `course.usual_batch`.
        slack: share by which a layout's batch may differ.
        limit: bytes of a device that may be used; 0, all there are.
        count: layouts that are shown of each stage.
        worlds: ways in which uncertain figures are drawn, from which intervals are taken.
        how: the run is kept going.
    """

    pins: Pins = field(default_factory=Pins)
    batch: float = 0.0
    slack: float = BATCH_SLACK
    limit: float = 0.0
    count: int = 5
    worlds: int = 64
    how: Upkeeping = PLAIN

    def __post_init__(self) -> None:
        for name in ("count", "worlds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at least 1")
        for name in ("batch", "limit"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name):g}: must not be negative")


def plan_training(
    shape: Shape,
    cluster: Cluster,
    devices: int,
    course: Course,
    wishes: Wishes | None = None,
    *,
    tick: Tick | None = None,
    command: str = "",
) -> Plan:
    """Plan a run: search the best layout of each stage, and say what the run comes to.

    Layouts are compared with every figure at its best guess; the intervals are those of the best one. Figures that go
    by one name move together in all stages, so totals are no sums of intervals.

    Raises:
        ConfigError: more devices than there can be, a pinned size that cannot be, or no layout that fits.
    """
    wishes = wishes or Wishes()
    _check_devices(cluster, devices)
    batch, reason = (wishes.batch, "a step has as many tokens as given") if wishes.batch else usual_batch(shape, course.legs)
    machine, constants = cluster.machine(EXPECTED), Constants.at(EXPECTED)
    _check_precision(cluster, wishes.pins)
    found = []
    for number, leg in enumerate(course.legs):
        begun, share = time.perf_counter(), 1 / len(course.legs)

        def told(part: float, label: str = leg.name, before: float = number * share, whole: float = share) -> None:
            if tick is not None:
                tick(f"layouts of the {label} stage", before + part * whole)

        result = _search(shape, cluster, devices, leg, batch, wishes, machine, constants, told)
        found.append((leg, result, time.perf_counter() - begun))
    if tick is not None:
        tick("intervals", 1.0)
    figures = intervals(lambda world: _figures(shape, cluster, devices, found, wishes, world), wishes.worlds)
    stages = tuple(
        Stage(
            name=leg.name,
            tokens=leg.tokens,
            best=result.best[0],
            figures=_of_stage(figures, number),
            basis=basis(shape, cluster, wishes.pins),
            others=result.best[1:],
            considered=result.considered,
            fitting=result.fitting,
            seconds=seconds,
        )
        for number, (leg, result, seconds) in enumerate(found)
    )
    return Plan(
        model=shape.title or shape.name,
        cluster=cluster.title or cluster.name,
        devices=devices,
        stages=stages,
        totals={name.removeprefix("total."): figure for name, figure in figures.items() if name.startswith("total.")},
        assumptions=_assumptions(shape, cluster, devices, course, reason, wishes, stages, figures),
        command=command,
    )
