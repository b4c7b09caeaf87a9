"""A plan of a training run: the best layout of each stage, and what it comes to, with intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from homegrown.config.errors import ConfigError
from homegrown.plan.assume import assumptions
from homegrown.plan.basis import basis_dtype, basis_of, check_precision, utilisation
from homegrown.plan.constants import Constants
from homegrown.plan.course import Course, Leg, usual_batch
from homegrown.plan.days import PLAIN, Upkeeping, outlook
from homegrown.plan.drawn import kernels_of, limits_of, spans_of
from homegrown.plan.enumerate import BATCH_SLACK, Space, space_on
from homegrown.plan.facts import Cluster, Shape
from homegrown.plan.memory import Overheads, memory
from homegrown.plan.pins import Pins
from homegrown.plan.quantity import EXPECTED, Interval, World, intervals
from homegrown.plan.results import Candidate, Memory, Plan, Stage
from homegrown.plan.search import Found, search
from homegrown.plan.step import StepModel, step_time

Tick = Callable[[str, float], None]
"""Told what is done at the moment, and which share of the whole plan is behind it."""
SUMMED = ("tokens", "days", "device_hours", "mwh", "usd")
"""Figures of stages that add up to those of the run."""
TOTAL = "total"
"""Where figures of a whole run stand."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is asked of a plan beside the run itself.

    Attributes:
        pins: what is decided about layouts.
        batch: tokens of a step; 0 takes `course.usual_batch`.
        slack: share by which a layout's batch may differ from it.
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


@dataclass(frozen=True)
class Searched:
    """What was found for a leg, and the model by which."""

    leg: Leg
    found: Found
    model: StepModel
    capacity: float
    seconds: float

    @property
    def best(self) -> Candidate:
        """The layout that the stage is planned with."""
        return self.found.best[0]


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
    by one name move together in all stages, so that the ends of totals are not the sums of ends.

    Args:
        shape: the model.
        cluster: where it is trained.
        devices: that the run keeps for itself; those that a layout cannot use are spares.
        course: stages and tokens.
        wishes: see `Wishes`.
        tick: told the progress.
        command: that asked for the plan, to be shown with it.

    Raises:
        ConfigError: more devices than the cluster can have, a precision its chip lacks, a size that no layout can have,
            or no layout that fits.
    """
    wishes = wishes or Wishes()
    _check_devices(cluster, devices)
    check_precision(cluster, wishes.pins.precision)
    batch, reason = batch_of(shape, course, wishes)
    searched = []
    for number, leg in enumerate(course.legs):
        space = space_on(cluster, shape, devices, leg.sequence, sequences_of(batch, leg), wishes.pins, wishes.slack)
        searched.append(search_leg(space, cluster, leg, wishes, _part(tick, leg, number, len(course.legs))))
    figures = intervals(lambda world: run_figures(shape, cluster, devices, searched, wishes, world), wishes.worlds)
    basis = basis_of(shape, cluster, wishes.pins)
    stages = tuple(_stage(one, under(figures, str(number)), basis) for number, one in enumerate(searched))
    totals, tokens = under(figures, TOTAL), f"{batch / 1e6:.1f}M tokens a step: {reason}"
    return Plan(
        model=shape.title or shape.name,
        cluster=cluster.title or cluster.name,
        devices=devices,
        stages=stages,
        totals=totals,
        assumptions=assumptions(shape, cluster, devices, course, tokens, wishes.pins, stages, totals),
        command=command,
    )


def batch_of(shape: Shape, course: Course, wishes: Wishes) -> tuple[float, str]:
    """Tokens of a step, and why so many."""
    return (wishes.batch, "as given") if wishes.batch else usual_batch(shape, course.legs)


def sequences_of(batch: float, leg: Leg) -> int:
    """Of a step, so that it has as many tokens in every stage."""
    if batch < leg.sequence:
        raise ConfigError(
            f"batch = {batch:g} tokens: must hold at least one sequence of {leg.sequence:,} tokens; "
            "write it with a unit, as in '64M'"
        )
    return round(batch / leg.sequence)


def search_leg(
    space: Space, cluster: Cluster, leg: Leg, wishes: Wishes, tick: Callable[[float], None] | None
) -> Searched:
    """Search the best layouts of a stage.

    Raises:
        ConfigError: none fits, or there is none.
    """
    begun = time.perf_counter()
    machine, constants = cluster.machine(EXPECTED), Constants.at(EXPECTED)
    model = StepModel(space.shape, machine, constants)
    capacity = wishes.limit or machine.memory
    overheads = Overheads.at(EXPECTED, constants.skew)
    found = search(space, model, overheads, capacity, count=wishes.count, tick=tick)
    if not found.best:
        raise ConfigError(_why_none(space, found, capacity, leg))
    return Searched(leg, found, model, capacity, time.perf_counter() - begun)


def _why_none(space: Space, found: Found, limit: float, leg: Leg) -> str:
    what = f"{space.shape.name} on {space.devices:,} devices, sequences of {leg.sequence:,}"
    if not found.smallest:
        return (
            f"{what}: no layout has these sizes and a batch of {space.batch:,} sequences; leave a size free, or change "
            "the batch"
        )
    return (
        f"{what}: no layout fits into {limit / 1e9:.1f} GB of a device, each needs at least "
        f"{found.smallest / 1e9:.1f} GB; take more devices, a larger --memory, --recompute full or --offload"
    )


def _stage(one: Searched, figures: Mapping[str, Interval], basis: str) -> Stage:
    layout = one.best.layout
    return Stage(
        name=one.leg.name,
        tokens=one.leg.tokens,
        best=one.best,
        figures=figures,
        basis=basis,
        others=one.found.best[1:],
        considered=one.found.considered,
        fitting=one.found.fitting,
        seconds=one.seconds,
        capacity=one.capacity,
        kernels=kernels_of(one.model, layout),
        limits=limits_of(one.model),
        timeline=spans_of(one.model, layout),
    )


def run_figures(
    shape: Shape, cluster: Cluster, devices: int, searched: Sequence[Searched], wishes: Wishes, world: World
) -> dict[str, float]:
    """All figures of a run in one world: those of stages under their numbers, those of the run under its name."""
    stages = [stage_figures(shape, cluster, devices, one.leg.tokens, one.best, wishes, world) for one in searched]
    total = {name: sum(stage[name] for stage in stages) for name in SUMMED if all(name in stage for stage in stages)}
    total["goodput"] = sum(stage["goodput"] * stage["days"] for stage in stages) / total["days"]
    total["mw"] = total["mwh"] / total["days"] / 24
    total["spares_needed"] = max(stage["spares_needed"] for stage in stages)
    named = {str(number): stage for number, stage in enumerate(stages)} | {TOTAL: total}
    return {f"{where}.{name}": value for where, figures in named.items() for name, value in figures.items()}


def stage_figures(
    shape: Shape, cluster: Cluster, devices: int, tokens: float, chosen: Candidate, wishes: Wishes, world: World
) -> dict[str, float]:
    """What a stage comes to in one world; see `results.Stage.figures`."""
    layout, machine = chosen.layout, cluster.machine(world)
    constants = Constants.at(world)
    step = step_time(shape, layout, machine, constants)
    need = memory(shape, layout, Overheads.at(world, constants.skew))
    rate, used = step.tokens / step.seconds, layout.devices
    figures = {
        "tokens": tokens,
        "step_s": step.seconds,
        "tokens_per_s": rate,
        "tokens_per_s_device": rate / used,
        "tflops_device": step.flops / step.seconds / used / 1e12,
        "mfu": utilisation(step, machine, basis_dtype(cluster, layout.precision), used),
        "memory": need.total,
    }
    return figures | outlook(
        cluster, step, tokens=tokens, devices=devices, used=used, state=saved(need), world=world, how=wishes.how
    )


def saved(need: Memory) -> float:
    """Bytes a device of what a checkpoint holds: the optimizer's state, in which the weights are, wherever it lies."""
    return need.host + sum(size for name, size in need.parts.items() if "optimizer" in name)


def _check_devices(cluster: Cluster, devices: int) -> None:
    if devices < 1 or (cluster.largest and devices > cluster.largest):
        most = f" and at most {cluster.largest:,}, the largest {cluster.title} there is" if cluster.largest else ""
        raise ConfigError(f"devices = {devices:,}: must be at least 1{most}")


def _part(tick: Tick | None, leg: Leg, number: int, count: int) -> Callable[[float], None] | None:
    """Progress of one stage as progress of the plan."""
    if tick is None:
        return None
    return lambda share: tick(f"layouts, sequences of {leg.name}", (number + share) / count)


def under(figures: Mapping[str, Interval], prefix: str) -> dict[str, Interval]:
    """Figures of one stage by its number, or of the whole run by `TOTAL`."""
    start = f"{prefix}."
    return {name.removeprefix(start): figure for name, figure in figures.items() if name.startswith(start)}
