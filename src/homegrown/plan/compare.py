"""The same run on other chips: with as many devices, and with as many as take as long."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from homegrown.config.errors import ConfigError
from homegrown.plan.compare_notes import notes_of
from homegrown.plan.course import Course
from homegrown.plan.facts import Cluster, Shape
from homegrown.plan.failures import DAY
from homegrown.plan.plan import Tick, Wishes, plan_training, stage_figures
from homegrown.plan.quantity import EXPECTED, Interval, World, intervals
from homegrown.plan.results import Plan

Question = Literal["asked", "same devices", "same days"]
SUMMED = ("days", "device_hours", "mwh", "usd")
"""Figures of stages that add up to those of the run."""
RATIOS = ("devices", *SUMMED)
"""Figures whose ratio to those of the run that was asked for is told."""
NEAR = 0.05
"""Logarithm by which a run of the same days may differ: layouts come in sizes. The figures make up for the rest."""
TRIES = 2
"""Plans at most that the search for as many days makes of a cluster."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A run on one cluster.

    Attributes:
        question: which it answers.
        cluster, title, chip: names. unit: what is counted as a device there.
        devices: that it was planned with; the run keeps them for itself.
        figures: `devices` (that take as long), `days`, `device_hours`, `mwh`, `mw`, `usd`, `goodput`, `memory` (share
            that the fullest device uses), `tokens_per_s_device` while it runs.
        ratios: to the run that was asked for.
        notes: layouts, dated prices and rules.
        problem: why there are no figures.
    """

    question: Question
    cluster: str
    title: str
    chip: str
    unit: str
    devices: int
    figures: Mapping[str, Interval] = field(default_factory=dict)
    ratios: Mapping[str, Interval] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A run, and the same on other clusters."""

    model: str
    tokens: float
    asked: Contender
    same_devices: tuple[Contender, ...]
    same_days: tuple[Contender, ...]
    assumptions: tuple[str, ...] = ()
    command: str = ""

    @property
    def rows(self) -> tuple[Contender, ...]:
        """All of them."""
        return (self.asked, *self.same_devices, *self.same_days)

    @property
    def clusters(self) -> tuple[Contender, ...]:
        """One of each cluster."""
        return (self.asked, *self.same_devices)


@dataclass(frozen=True)
class _Planned:
    cluster: Cluster
    plan: Plan

    @property
    def days(self) -> float:
        return self.plan.totals["days"].value


def compare(
    shape: Shape,
    asked: Cluster,
    devices: int,
    others: Sequence[Cluster],
    course: Course,
    wishes: Wishes | None = None,
    *,
    tick: Tick | None = None,
    command: str = "",
) -> Comparison:
    """Plan a run on a cluster and on others.

    What is uncertain for all of them (the model's own error, shared constants) has the same value in each world, so
    that ratios are surer than what they are ratios of.

    Args:
        shape, asked, devices, course, wishes: as for `plan_training`.
        others: to compare with.
        tick: told the progress.
        command: to be shown.

    Raises:
        ConfigError: the run that was asked for cannot be planned, or there is nothing to compare it with. Another
            cluster on which it cannot be planned is told as a problem.
    """
    names = [other.name for other in others]
    if not others or asked.name in names or len(set(names)) < len(names):
        raise ConfigError(
            f"against = {', '.join(names) or 'nothing'}: must name at least one cluster, none twice, and not "
            f"{asked.name!r} itself"
        )
    run = _Run(shape, course, wishes or Wishes(), tick, 1 + 2 * len(others))
    first = run.plan(asked, devices)
    same_devices, same_days = [], []
    for other in others:
        found = run.attempt(other, devices)
        same_devices.append(_contender(run, "same devices", first, other, devices, found))
        if isinstance(found, str):
            found = run.attempt(other, _fitting(other, devices * _peak(asked, run) / _peak(other, run)))
        equal = run.equal(found, first.days) if isinstance(found, _Planned) else found
        wanted = equal.plan.devices if isinstance(equal, _Planned) else devices
        same_days.append(_contender(run, "same days", first, other, wanted, equal))
    return Comparison(
        model=first.plan.model,
        tokens=course.tokens,
        asked=_contender(run, "asked", first, asked, devices, first),
        same_devices=tuple(same_devices),
        same_days=tuple(same_days),
        assumptions=first.plan.assumptions,
        command=command,
    )


class _Run:
    """What is planned, wherever it runs."""

    def __init__(self, shape: Shape, course: Course, wishes: Wishes, tick: Tick | None, parts: int) -> None:
        self.shape, self.course, self.wishes = shape, course, wishes
        self._tick, self._parts, self._done = tick, parts, 0

    def plan(self, cluster: Cluster, devices: int) -> _Planned:
        """The best layouts; their intervals are taken later, together with those of the others."""
        if self._tick is not None:
            self._tick(f"{devices:,} on {cluster.name}", min(self._done / self._parts, 1.0))
        self._done += 1
        once = replace(self.wishes, worlds=1, count=1)
        return _Planned(cluster, plan_training(self.shape, cluster, devices, self.course, once))

    def attempt(self, cluster: Cluster, devices: int) -> _Planned | str:
        """A plan, or the sentence that says why there is none."""
        try:
            return self.plan(cluster, devices)
        except ConfigError as error:
            return str(error)

    def equal(self, planned: _Planned, days: float) -> _Planned | str:
        """With as many devices as take nearly so many days; they are not quite proportional."""
        best = planned
        for _ in range(TRIES):
            if abs(math.log(best.days / days)) < NEAR:
                return best
            wanted = _fitting(planned.cluster, best.plan.devices * best.days / days)
            if wanted == best.plan.devices:
                break
            found = self.attempt(planned.cluster, wanted)
            if isinstance(found, str):
                return found
            best = found
        off = best.days / days - 1
        if abs(off) < 5 * NEAR:
            return best
        return f"no number of devices takes as long: with {best.plan.devices:,} the run takes {best.days:.1f} days"

    def figures(self, planned: _Planned, world: World) -> dict[str, float]:
        """What the whole run comes to in one world."""
        cluster, devices = planned.cluster, planned.plan.devices
        stages = [
            stage_figures(self.shape, cluster, devices, stage.tokens, stage.best, self.wishes, world)
            for stage in planned.plan.stages
        ]
        found = {
            name: sum(stage[name] for stage in stages) for name in SUMMED if all(name in stage for stage in stages)
        }
        worked = sum(stage["goodput"] * stage["days"] for stage in stages) * DAY
        return found | {
            "devices": float(devices),
            "mw": found["mwh"] / found["days"] / 24,
            "goodput": worked / DAY / found["days"],
            "tokens_per_s_device": self.course.tokens / worked / devices,
            "memory": max(stage["memory"] for stage in stages) / cluster.machine(world).memory,
        }


def _contender(
    run: _Run, question: Question, first: _Planned, cluster: Cluster, devices: int, found: _Planned | str
) -> Contender:
    row = Contender(
        question=question,
        cluster=cluster.name,
        title=cluster.title,
        chip=cluster.chip.title,
        unit=cluster.chip.unit,
        devices=devices,
        notes=tuple(notes_of(cluster, None if isinstance(found, str) else found.plan, run.wishes.how)),
        problem=found if isinstance(found, str) else "",
    )
    if isinstance(found, str):
        return row

    def both(world: World) -> dict[str, float]:
        here, there = run.figures(found, world), run.figures(first, world)
        if question == "same days":  # to a day: device-hours are the same with a few more or fewer
            longer = here["days"] / there["days"]
            here |= {"devices": here["devices"] * longer, "mw": here["mw"] * longer, "days": there["days"]}
        ratios = {f"ratio.{name}": here[name] / there[name] for name in RATIOS if name in here and name in there}
        return here | (ratios if question != "asked" else {})

    drawn = intervals(both, run.wishes.worlds)
    return replace(
        row,
        figures={name: figure for name, figure in drawn.items() if not name.startswith("ratio.")},
        ratios={name.removeprefix("ratio."): figure for name, figure in drawn.items() if name.startswith("ratio.")},
    )


def _peak(cluster: Cluster, run: _Run) -> float:
    """FLOP/s that large products reach, to begin with where no plan gives a pace."""
    products = cluster.machine(EXPECTED).products
    return products.get(run.wishes.pins.precision, products["bf16"])


def _fitting(cluster: Cluster, devices: float) -> int:
    """Whole nodes, and no more than there can be."""
    whole = max(round(devices / cluster.node), 1) * cluster.node
    return min(whole, cluster.largest) if cluster.largest else whole
