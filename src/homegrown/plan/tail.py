"""What a step does once, after its passes: gradients are summed, optimizer state is updated, weights are handed out."""

from __future__ import annotations

from dataclasses import dataclass

from homegrown.plan.facts import Link, Machine, Shape
from homegrown.plan.kernel import ITEM
from homegrown.plan.layout import Layout
from homegrown.plan.network import Group, all_gather
from homegrown.plan.roofline import Roofline
from homegrown.plan.states import Held, Rules, held_on
from homegrown.plan.update import update_kernels

MOVED_BY_UPDATE = 24.0
"""Bytes of a number's state that an update reads and writes where it lies at the host: master and two moments."""
SWEPT = 8.0
"""Bytes of a gradient's number that are read for the norm of all of them and set to zero for the next step."""


@dataclass(frozen=True)
class Tail:
    """Seconds on a device of one stage.

    Attributes:
        gradients: summing them. weights: handing out. update: of the optimizer.
        hidden: of traffic that passes hide.
    """

    gradients: float
    weights: float
    update: float
    hidden: float = 0.0

    @property
    def exposed(self) -> float:
        """Traffic that shows."""
        return self.gradients + self.weights - self.hidden

    @property
    def seconds(self) -> float:
        """All that shows."""
        return self.exposed + self.update

    def behind(self, forward: float, backward: float, spare: float) -> Tail:
        """With traffic behind the passes: gradients of a layer are complete once the last micro-batch has gone back
        through it, and weights are needed when the first one comes (arXiv 2006.15704, arXiv 2402.15627 section 3.2).

        Args:
            forward, backward: seconds of a micro-batch on the stage; 0 where traffic does not hide.
            spare: seconds by which the stage is done before the last one is.
        """
        hidden = min(self.gradients, backward + spare) + min(self.weights, forward)
        return Tail(self.gradients, self.weights, self.update, hidden)


def tail_of(shape: Shape, layout: Layout, stage: int, machine: Machine, roofline: Roofline) -> Tail:
    """What a device of a stage does after its passes, nothing hidden.

    With ZeRO-1 gradients are scattered to the owners of optimizer state and weights gathered from them
    (arXiv 1910.02054); else gradients are summed everywhere. Under DualPipe a device holds the mirrored stage as well.
    """
    held = [held_on(shape, layout, stage)]
    if layout.schedule == "dual" and layout.pp > 1:
        held.append(held_on(shape, layout, layout.pp - 1 - stage))
    gradients = weights = 0.0
    for each in held:
        one_way = _summed(shape, layout, each, machine.links)
        gradients += one_way[0] * (1.0 if layout.zero else 2.0)
        weights += one_way[1] if layout.zero else 0.0
    kernels = update_kernels(shape, layout, stage)
    update = sum(map(roofline.seconds, kernels))
    update += sum(roofline.moving(SWEPT * _local(layout, each)) for each in held)
    if layout.offload:
        moved = sum(kernel.bytes for kernel in kernels if kernel.kind == "memory")
        # State comes from the host and goes back; the update itself runs meanwhile.
        update = max(update, moved * MOVED_BY_UPDATE / 30.0 / machine.host_bandwidth)
    return Tail(gradients, weights, update)


def _local(layout: Layout, held: Held) -> float:
    """Numbers of gradients on a device; those of n-gram tables are few."""
    return _dense(layout, held) + held.routed / (layout.ep * layout.etp)


def _dense(layout: Layout, held: Held) -> float:
    """Those of all but experts."""
    tp = layout.tp
    cut = sum(numbers / (min(tp, limit) if limit else tp) for limit, numbers in held.cut)
    return cut + held.whole + (held.ends - held.positions) / tp + held.positions


def _summed(shape: Shape, layout: Layout, held: Held, links: tuple[Link, ...]) -> tuple[float, float]:
    """Seconds to scatter the gradients of a stage's parameters, and to gather its weights."""
    apart = layout.ep * layout.etp
    stage = layout.dp * layout.cp * layout.tp
    item, gradient = ITEM["fp32" if layout.precision == "fp32" else "bf16"], Rules().gradient
    classes = [
        (_dense(layout, held), Group(layout.dp * layout.cp, layout.tp)),
        (held.routed / apart, Group(stage // apart, apart)),
    ]
    if held.tables:
        # Only rows that were looked up have gradients.
        rows = layout.tokens * shape.ngram_tables * shape.ngram_width / layout.embp
        classes.append((min(held.tables / layout.embp, rows), Group(stage // layout.embp, layout.embp)))
    shared = [(numbers, group) for numbers, group in classes if numbers and group.size > 1]
    scattered = sum(all_gather(links, group, gradient * numbers) for numbers, group in shared)
    return scattered, sum(all_gather(links, group, item * numbers) for numbers, group in shared)
