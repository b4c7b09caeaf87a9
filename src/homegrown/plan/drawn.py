"""What pages draw of a layout: kernels with their times, and the timeline of a step."""

from __future__ import annotations

from homegrown.plan.kernels import stage_kernels
from homegrown.plan.layout import Layout
from homegrown.plan.results import KernelTime, Span
from homegrown.plan.roofline import Roofline
from homegrown.plan.step import StepModel
from homegrown.plan.timeline import timeline

MOST = 6000
"""Passes of a timeline: more could not be told apart, and micro-batches in the middle only repeat one another."""


def kernels_of(model: StepModel, layout: Layout) -> tuple[KernelTime, ...]:
    """Kernels of a device of the slowest stage, all runs of a step together; those alike are put together."""
    times = model.stage_times(layout)
    slowest = max(range(len(times)), key=lambda stage: times[stage].both)
    roofline = Roofline(model.machine, model.constants)
    found: dict[tuple[str, str, str], list[float]] = {}
    for number, kernels in stage_kernels(model.shape, layout, slowest):
        passes = ((kernels.forward, False), (kernels.backward, True), (kernels.again, False))
        for kernel, backward in ((kernel, backward) for run, backward in passes for kernel in run):
            sums = found.setdefault((kernel.name, kernel.part, kernel.dtype), [0.0, 0.0, 0.0])
            runs = number * layout.micro_batches
            for place, amount in enumerate((kernel.flops, kernel.bytes, roofline.seconds(kernel, backward))):
                sums[place] += runs * amount
    return tuple(
        KernelTime(name=name, part=part, dtype=dtype, flops=flops, bytes=moved, seconds=seconds)
        for (name, part, dtype), (flops, moved, seconds) in found.items()
    )


def limits_of(model: StepModel) -> dict[str, float]:
    """What bounds kernels: FLOP/s that large products reach by dtype, and bytes/s that are reached of the memory's."""
    roofline = Roofline(model.machine, model.constants)
    products = {dtype: roofline.rate(dtype) for dtype in model.machine.products}
    return {**products, "memory": model.machine.bandwidth * model.constants.memory}


def spans_of(model: StepModel, layout: Layout) -> tuple[Span, ...]:
    """What each pipeline stage does when, for `micro_batches_of` a step; nothing without a pipeline."""
    if layout.pp == 1:
        return ()
    times = model.stage_times(layout)
    events = timeline(
        layout.schedule, layout.parts, micro_batches_of(layout), [time.forward for time in times],
        [time.backward for time in times], [time.weights for time in times],
    )  # fmt: skip
    return tuple(
        Span(
            device=event.device, kind=event.task.kind, start=event.start, end=event.end,
            micro_batch=event.task.micro_batch,
        )
        for event in events
    )  # fmt: skip


def micro_batches_of(layout: Layout) -> int:
    """Micro-batches of a timeline: all of them, or as many multiples of twice the stages as can be told apart."""
    unit = 2 * layout.pp
    most = max(MOST // (3 * layout.pp * layout.parts) // unit, 1) * unit
    return min(layout.micro_batches, most)
