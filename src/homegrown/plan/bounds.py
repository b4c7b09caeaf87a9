"""What no layout of a frame can do better than: seconds of a token, bytes of a device. The search skips frames by these
and so loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from homegrown.plan.enumerate import Frame, Space
from homegrown.plan.facts import Machine, Shape
from homegrown.plan.layout import Layout
from homegrown.plan.parts import Part, all_parts
from homegrown.plan.results import Memory
from homegrown.plan.work import draft_work, layer_work


def least_pace(space: Space, frame: Frame, machine: Machine) -> float:
    """Seconds of a token that no layout of a frame goes below: all that multiplies does so at the best rate that large
    products reach, nothing else takes any time, and all replicas that there can be are there.

    The slowest stage computes every micro-batch, and waits for the others to fill and to empty the pipeline: their work
    for one micro-batch, shared by the parts when interleaved (arXiv 2104.04473 section 2.2). The schedules that fill
    those gaps with other work may not wait at all.
    """
    slowest, others = _stages(space.shape, frame.pp, frame.parts, space.sequence)
    passes = 4 if space.pins.recompute == "full" else 3
    each = passes / (max(machine.products.values()) * frame.tp * frame.cp)
    gap = 0.0 if frame.schedule in ("zero-bubble", "dual") else others / frame.parts * frame.micro_batch / space.most
    return each * (slowest / space.replicas(frame) + gap)


def least_memory(space: Space, frame: Frame, need: Callable[[Layout], Memory]) -> float:
    """Bytes that every layout of a frame needs on its fullest device.

    Each component only grows or only shrinks with each size of a fold: weights shrink as experts and tables are spread
    further, the slack of uneven experts grows. So none is below its least at the corners of the frame's folds, with
    the most recomputation.
    """
    corners = [need(layout).parts for layout in space.corners(frame)]
    if not corners:
        return 0.0
    return sum(min(parts.get(name, 0.0) for parts in corners) for name in corners[0])


@lru_cache(maxsize=4096)
def _stages(shape: Shape, pp: int, parts: int, sequence: int) -> tuple[float, float]:
    """FLOPs of a token, forward: on the stage with most, and on all others together."""
    every = [_work(shape, part, sequence) for part in all_parts(shape, pp, parts, (), sequence)]
    stages = [sum(every[stage::pp]) for stage in range(pp)]
    return max(stages), sum(stages) - max(stages)


def _work(shape: Shape, part: Part, sequence: int) -> float:
    found = sum(
        count * sum(layer_work(shape, layers, sequence).values())
        for count, layers in zip(part.layers, shape.layers, strict=True)
    )
    if part.last:
        found += 2.0 * shape.hidden * shape.vocab + sum(draft_work(shape, sequence).values())
    return found
