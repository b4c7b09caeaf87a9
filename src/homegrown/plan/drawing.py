"""What pages draw of a layout: its kernels under their roofs, and its pipeline task by task."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from homegrown.plan.constants import Constants
from homegrown.plan.facts import Machine, Shape
from homegrown.plan.kernel import Kernel
from homegrown.plan.kernels import stage_kernels
from homegrown.plan.layout import Layout
from homegrown.plan.results import KernelTime, Span
from homegrown.plan.roofline import Roofline
from homegrown.plan.step import StepModel
from homegrown.plan.timeline import timeline

MOST_SPANS = 6000
"""Passes of a timeline: more could not be told apart, and micro-batches in the middle only repeat one another."""
_VAST = 1e12
"""A size of products beside which tiles, waves and launches do not matter."""


@dataclass(frozen=True)
class Drawing:
    """Fields of `results.Stage`."""

    kernels: tuple[KernelTime, ...]
    limits: dict[str, float]
    timeline: tuple[Span, ...]


def drawing(shape: Shape, layout: Layout, machine: Machine, constants: Constants) -> Drawing:
    """Kernels, roofs and timeline of a layout.

    Raises:
        ConfigError: see `step.step_time`.
    """
    model = StepModel(shape, machine, constants)
    times = model.stage_times(layout)
    slowest = max(range(layout.pp), key=lambda stage: times[stage].both)
    roofline = Roofline(machine, constants)
    kernels = _kernels(shape, layout, slowest, roofline)
    return Drawing(kernels, _limits(kernels, roofline), _timeline(layout, model))


def _kernels(shape: Shape, layout: Layout, stage: int, roofline: Roofline) -> tuple[KernelTime, ...]:
    """Kernels of a stage over all micro-batches of a step; those alike are put together."""
    sums: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for number, block in stage_kernels(shape, layout, stage):
        runs = number * layout.micro_batches
        passes = [(kernel, False) for kernel in (*block.forward, *block.again)]
        for kernel, backward in [*passes, *((kernel, True) for kernel in block.backward)]:
            found = sums[kernel.name, kernel.part, kernel.dtype]
            for place, more in enumerate((kernel.flops, kernel.bytes, roofline.seconds(kernel, backward))):
                found[place] += runs * more
    return tuple(
        KernelTime(name=name, part=part, dtype=dtype, flops=flops, bytes=size, seconds=seconds)
        for (name, part, dtype), (flops, size, seconds) in sums.items()
    )


def _limits(kernels: tuple[KernelTime, ...], roofline: Roofline) -> dict[str, float]:
    """FLOP/s of vast products in each dtype that the kernels multiply in, and bytes/s of vast copies."""
    limits = {"memory": _VAST / roofline.moving(_VAST)}
    for dtype in dict.fromkeys(kernel.dtype for kernel in kernels if kernel.flops):
        vast = Kernel("vast", "", "matmul", 2 * _VAST**3, 0.0, dtype, rows=_VAST, inner=_VAST, columns=_VAST)
        limits[dtype] = vast.flops / roofline.seconds(vast)
    return limits


def _timeline(layout: Layout, model: StepModel) -> tuple[Span, ...]:
    """Passes through the pipeline, of fewer micro-batches where there are many; none without a pipeline."""
    if layout.pp == 1:
        return ()
    times = model.stage_times(layout)
    events = timeline(
        layout.schedule, layout.parts, drawn_micro_batches(layout), [time.forward for time in times],
        [time.backward for time in times], [time.weights for time in times],
    )  # fmt: skip
    return tuple(
        Span(
            device=event.device, kind=event.task.kind, start=event.start, end=event.end,
            micro_batch=event.task.micro_batch,
        )
        for event in events
    )  # fmt: skip


def drawn_micro_batches(layout: Layout) -> int:
    """Micro-batches of a timeline: all of them, or as many multiples of twice the stages as can be told apart."""
    passes = 3 if layout.schedule in ("zero-bubble", "dual") else 2
    unit = 2 * layout.pp
    most = max(MOST_SPANS // (layout.pp * layout.parts * passes) // unit, 1) * unit
    return min(layout.micro_batches, most)
