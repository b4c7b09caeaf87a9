"""The roofline of a step: what its kernels reach against what the device could."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from homegrown.plan.results import KernelTime, Stage
from homegrown.report.numbers import percent, quantity
from homegrown.report.svg import INK, MUTED, SERIES, WIDE, Plot, plain_ticks, plot

_NARROW = (460, 400)
_AREA = 1000.0
"""Square points of a mark that would be the whole step."""


def roofline(stage: Stage, number: int) -> Plot | None:
    """FLOP/s of kernels over their operations per byte, with the roofs; None where no kernel was timed."""
    drawn = [kernel for kernel in stage.kernels if kernel.flops > 0 and kernel.bytes > 0 and kernel.seconds > 0]
    if not drawn or not stage.limits.get("memory"):
        return None
    spent = sum(kernel.seconds for kernel in stage.kernels)
    parts = _parts(drawn)
    dtypes = [dtype for dtype in dict.fromkeys(kernel.dtype for kernel in drawn) if dtype in stage.limits]
    rest = sum(kernel.seconds for kernel in stage.kernels if kernel.flops <= 0)

    def paint(_: Figure, axes: Axes) -> None:
        _roofs(axes, drawn, stage.limits, dtypes)
        for (part, kernels), colour in zip(parts.items(), (*SERIES, MUTED), strict=False):
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
        + (f" Without products, and not drawn: {percent(rest / spent)} of the time." if rest else ""),
        size=_NARROW,
        wide=WIDE,
    )


def _parts(kernels: Sequence[KernelTime]) -> dict[str, list[KernelTime]]:
    """Kernels by component, those that take longest first; what has no colour of its own is together."""
    found: dict[str, list[KernelTime]] = defaultdict(list)
    for kernel in kernels:
        found[kernel.part].append(kernel)
    names = sorted(found, key=lambda name: -sum(kernel.seconds for kernel in found[name]))
    own = names if len(names) <= len(SERIES) else names[: len(SERIES) - 1]
    parts = {name: found[name] for name in own}
    others = [kernel for name in names if name not in parts for kernel in found[name]]
    return parts | ({"others": others} if others else {})


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
