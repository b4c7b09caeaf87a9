"""The roofline of a step: what its kernels reach against what the device could."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from homegrown.plan.results import KernelTime, Plan, Stage
from homegrown.report.numbers import percent, quantity
from homegrown.report.svg import INK, SERIES, WIDE, Plot, plain_ticks, plot

_NARROW = (460, 400)
_LEAST = 0.001
"""Share of the kernels' time below which one is not drawn."""
_AREA = 1000.0
"""Square points of a mark that would be the whole step."""


def part_order(plan: Plan) -> list[str]:
    """Components of the model whose kernels have products, those that take longest first: so that each has the same
    colour in all stages."""
    spent: dict[str, float] = {}
    for stage in plan.stages:
        whole = sum(kernel.seconds for kernel in stage.kernels)
        for kernel in stage.kernels:
            if kernel.flops:
                spent[kernel.part] = spent.get(kernel.part, 0.0) + kernel.seconds / whole
    return sorted(spent, key=lambda part: -spent[part])


def roofline(stage: Stage, number: int, order: Sequence[str]) -> Plot | None:
    """FLOP/s of kernels over their operations per byte, with the roofs; None where no kernel was timed.

    Args:
        stage: whose best layout it is.
        number: makes its name the page's only one.
        order: of components of the model, from `part_order`.
    """
    spent = sum(kernel.seconds for kernel in stage.kernels)
    drawn = [
        kernel for kernel in stage.kernels if kernel.flops and kernel.bytes and kernel.seconds > _LEAST * spent
    ]  # fmt: skip
    if not drawn or not stage.limits.get("memory"):
        return None
    parts = _parts(drawn, order)
    dtypes = [dtype for dtype in dict.fromkeys(kernel.dtype for kernel in drawn) if dtype in stage.limits]
    rest = spent - sum(kernel.seconds for kernel in drawn)

    def paint(_: Figure, axes: Axes) -> None:
        _roofs(axes, drawn, stage.limits, dtypes)
        for part, (colour, kernels) in parts.items():
            axes.scatter(
                [kernel.flops / kernel.bytes for kernel in kernels],
                [kernel.flops / kernel.seconds for kernel in kernels],
                s=[max(_AREA * kernel.seconds / spent, 14.0) for kernel in kernels],
                color=colour, alpha=0.75, linewidths=0, label=part, zorder=3,
            )  # fmt: skip
        legend = axes.legend(loc="lower right", markerscale=1.0)
        for handle in legend.legend_handles:
            handle.set_sizes([40.0])  # type: ignore[union-attr]

    slow = max(drawn, key=lambda kernel: kernel.seconds)
    return plot(
        f"roofline-{number}",
        paint,
        title=f"Roofline of a step of {stage.name}",
        summary=f"{len(drawn)} kernels with products. The longest, {slow.name} ({slow.part}), takes "
        f"{percent(slow.seconds / spent)} of the kernels' time at {quantity(slow.flops / slow.seconds, 'FLOP/s')} and "
        f"{quantity(slow.flops / slow.bytes)} operations a byte.",
        caption="Area: share of the kernels' time. Roofs: what large products and memory reach."
        + (
            f" Not drawn: kernels without products or that take next to nothing, {percent(rest / spent)}."
            if rest
            else ""
        ),
        size=_NARROW,
        wide=WIDE,
    )


def _parts(kernels: Sequence[KernelTime], order: Sequence[str]) -> dict[str, tuple[str, list[KernelTime]]]:
    """Colour and kernels of each component; those for which there is no colour left are together."""
    own = order if len(order) <= len(SERIES) else order[: len(SERIES) - 1]
    found: dict[str, tuple[str, list[KernelTime]]] = {}
    for part, colour in zip(own, SERIES, strict=False):
        found[part] = colour, [kernel for kernel in kernels if kernel.part == part]
    found["others"] = SERIES[-1], [kernel for kernel in kernels if kernel.part not in own]
    return {part: entry for part, entry in found.items() if entry[1]}


def _roofs(axes: Axes, kernels: Sequence[KernelTime], limits: Mapping[str, float], dtypes: Sequence[str]) -> None:
    """Memory's slope and, for each dtype, the level of large products; with axes that hold everything."""
    memory = limits["memory"]
    intensity = np.array([kernel.flops / kernel.bytes for kernel in kernels])
    ridges = [limits[dtype] / memory for dtype in dtypes]
    low, high = min(intensity.min(), *ridges) / 3, max(intensity.max(), *ridges) * 12
    top = max((limits[dtype] for dtype in dtypes), default=memory * high)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    reached = min(kernel.flops / kernel.seconds for kernel in kernels)
    axes.set_ylim(min(reached, memory * low) / 1.5, top * 1.9)
    axes.plot([low, top / memory], [memory * low, top], color=INK, linewidth=1.2, zorder=2)
    place = low * (top / memory / low) ** 0.4
    axes.annotate(
        f"memory, {quantity(memory, 'B/s')}", (place, memory * place), xytext=(8, -12), textcoords="offset points",
        color=INK,
    )  # fmt: skip
    for dtype in dtypes:
        level = limits[dtype]
        axes.plot([level / memory, high], [level, level], color=INK, linewidth=1.2, zorder=2)
        axes.annotate(
            f"{dtype}, {quantity(level, 'FLOP/s')}", (high, level), xytext=(0, 4), textcoords="offset points",
            ha="right", color=INK,
        )  # fmt: skip
    plain_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    axes.set_xlabel("operations a byte")
    axes.set_ylabel("FLOP/s")
