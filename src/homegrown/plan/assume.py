"""What a plan takes for granted, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from homegrown.plan.course import Course
from homegrown.plan.facts import Cluster, Shape
from homegrown.plan.layout import Layout
from homegrown.plan.pins import Pins
from homegrown.plan.quantity import Interval
from homegrown.plan.results import Stage


def assumptions(
    shape: Shape,
    cluster: Cluster,
    devices: int,
    course: Course,
    batch: str,
    pins: Pins,
    stages: Sequence[Stage],
    totals: Mapping[str, Interval],
) -> tuple[str, ...]:
    """What a plan takes for granted.

    Args:
        shape, cluster, devices, course, pins: of the run.
        batch: why a step has so many tokens.
        stages: with their layouts and figures.
        totals: of the run.
    """
    return (
        course.reason,
        batch,
        _work(shape, pins),
        _spares(cluster, devices, [stage.best.layout for stage in stages], totals["spares_needed"].value),
        *_tight(stages),
        *_price(cluster, totals),
        *cluster.notes,
    )


def _work(shape: Shape, pins: Pins) -> str:
    said = [f"products in {pins.precision}", f"{pins.optimizer} with ZeRO-{pins.zero}"]
    real = {group.experts.real for group in shape.layers if group.experts and group.experts.zero}
    if real:
        said.append(f"{', '.join(f'{mean:g}' for mean in sorted(real))} real experts a token on average")
    if any(group.experts for group in shape.layers):
        said.append("experts equally loaded" if pins.balanced else "experts loaded as tokens choose them")
    if pins.comm_share:
        said.append(f"{100 * pins.comm_share:.0f} % of a device does traffic only")
    return "; ".join(said)


def _spares(cluster: Cluster, devices: int, layouts: Sequence[Layout], needed: float) -> str:
    left = devices - max(layout.devices for layout in layouts)
    ready = left // cluster.node
    said = f"{left:,} of {devices:,} devices are left as spares ({ready:,} nodes)"
    if ready >= needed:
        return f"{said}, enough to replace what is being repaired: {ceil(needed)} nodes"
    return f"{said}; {ceil(needed)} nodes must stand ready, and the plan takes them for granted"


def _tight(stages: Sequence[Stage]) -> list[str]:
    tight = [stage for stage in stages if stage.figures["memory"].high > stage.capacity]
    if not tight:
        return []
    names = " and ".join(stage.name for stage in tight)
    most = max(stage.figures["memory"].high for stage in tight)
    return [
        f"memory is tight at {names}: layouts fit with every figure at its best guess, but may need up to "
        f"{most / 1e9:.0f} GB of {tight[0].capacity / 1e9:.0f}; a smaller --memory leaves room"
    ]


def _price(cluster: Cluster, totals: Mapping[str, Interval]) -> list[str]:
    chip = cluster.chip
    if "usd" not in totals:
        return [f"no price is known of {chip.title}, so that there is no cost"]
    price = chip.rental or chip.capital
    if price is None:
        return []
    said = "rented by the hour, power included" if chip.rental else "bought, and written off over its life"
    return [f"{chip.title} is {said}: {' '.join(part for part in (price.source, price.date, price.note) if part)}"]
