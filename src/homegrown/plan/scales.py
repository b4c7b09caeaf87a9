"""The same run on fewer and on more devices, for the plot of days against devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from homegrown.config.errors import ConfigError
from homegrown.plan.course import Course, Leg
from homegrown.plan.enumerate import space_on
from homegrown.plan.facts import Cluster, Shape
from homegrown.plan.layout import Layout
from homegrown.plan.plan import TOTAL, Searched, Wishes, run_figures, search_leg, under
from homegrown.plan.quantity import World, intervals
from homegrown.plan.results import Plan, Scale

FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Of the plan's own number of devices."""
WORLDS = 16
"""From which intervals are taken: a band in a plot."""
KEPT = ("tp", "pp", "parts", "schedule")
"""What layouts keep of the plan's: what a device holds of the model. The rest is searched again."""


def with_scales(plan: Plan, shape: Shape, cluster: Cluster, course: Course, wishes: Wishes) -> Plan:
    """A plan with the same run on other numbers of devices, as far as layouts like its own go.

    Batches stay what they are, so that devices beyond a point have nothing to do: that is what the plot shows.
    """
    layouts = [stage.best.layout for stage in plan.stages]
    numbers = [max(1, round(plan.devices * factor)) for factor in FACTORS]
    found = []
    for devices in numbers:
        if cluster.largest and devices > cluster.largest:
            continue
        searched = list(_searched(shape, cluster, devices, course.legs, layouts, wishes))
        if len(searched) == len(layouts):
            found.append(_scale(shape, cluster, devices, searched, wishes))
    return replace(plan, scales=tuple(found))


def _searched(
    shape: Shape, cluster: Cluster, devices: int, legs: Sequence[Leg], layouts: Sequence[Layout], wishes: Wishes
) -> Iterator[Searched]:
    """Stages for which there is a layout."""
    for leg, layout in zip(legs, layouts, strict=True):
        pins = replace(wishes.pins, dp=0, **{name: getattr(layout, name) for name in KEPT})
        try:
            space = space_on(cluster, shape, devices, leg.sequence, layout.batch, pins, wishes.slack)
            yield search_leg(space, cluster, leg, replace(wishes, count=1), None)
        except ConfigError:  # fewer devices than a replica has, or too many for the batch
            return


def _scale(shape: Shape, cluster: Cluster, devices: int, searched: Sequence[Searched], wishes: Wishes) -> Scale:
    def figures(world: World) -> dict[str, float]:
        return run_figures(shape, cluster, devices, searched, wishes, world)

    return Scale(devices=devices, figures=under(intervals(figures, min(WORLDS, wishes.worlds)), TOTAL))
