"""Bars: where a step's time goes, what fills the memory, energy and cost with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from homegrown.plan import words
from homegrown.plan.quantity import Interval
from homegrown.plan.results import Plan, Stage
from homegrown.report.numbers import percent, quantity
from homegrown.report.svg import INK, SERIES, Plot, plot
from homegrown.report.text import short

_ROW = 27
"""Height of a bar with its gap, in CSS pixels."""
_WIDTH = 460
_LEAST = 0.001
"""Share of a step below which a part of it has no bar."""
_COLOURS: Mapping[words.Group, str] = {"compute": SERIES[0], "exposed": SERIES[1], "waiting": SERIES[5]}


def step_bars(stage: Stage, number: int) -> Plot:
    """Seconds of a step by what they go to."""
    whole = stage.best.time.seconds
    rows = [row for row in words.step_rows(stage.best.time) if row.seconds > _LEAST * whole]
    told = [f"{quantity(row.seconds, 's')}, {percent(row.seconds / whole)}" for row in rows]
    groups = list(dict.fromkeys(row.group for row in rows))

    def paint(_: Figure, axes: Axes) -> None:
        _bars(
            axes,
            [row.title for row in rows],
            [row.seconds for row in rows],
            [_COLOURS[row.group] for row in rows],
            told,
        )
        handles = [Patch(color=_COLOURS[group], label=words.GROUPS[group]) for group in groups]
        axes.legend(handles=handles, loc="lower right", borderaxespad=0)

    return plot(
        f"step-{number}",
        paint,
        title=f"A step of {stage.name}",
        summary=f"A step takes {quantity(whole, 's')}: "
        + "; ".join(f"{row.title} {text}" for row, text in zip(rows, told, strict=True)) + ".",
        caption=f"{quantity(whole, 's')} together, on the slowest stage; parts below {percent(_LEAST)} are not shown",
        size=(_WIDTH, 20 + _ROW * len(rows)),
    )  # fmt: skip


def memory_bars(stage: Stage, number: int) -> Plot:
    """Bytes of the fullest device by component, against what there is."""
    memory = stage.best.memory
    parts = {name: held for name, held in memory.parts.items() if held > 0}
    there = f" of {words.size(stage.capacity)}" if stage.capacity else ""

    def paint(_: Figure, axes: Axes) -> None:
        left = np.cumsum([0.0, *list(parts.values())[:-1]])
        told = [words.size(held) for held in parts.values()]
        _bars(axes, list(parts), list(parts.values()), [SERIES[0]] * len(parts), told, left=left)
        if stage.capacity:
            axes.axvline(stage.capacity, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.set_xlim(0, max(stage.capacity, memory.total) * 1.03)

    return plot(
        f"memory-{number}",
        paint,
        title=f"Memory of the fullest device, {stage.name}",
        summary=f"{words.size(memory.total)}{there}: "
        + "; ".join(f"{name} {words.size(held)}" for name, held in parts.items()) + ".",
        caption=f"{words.size(memory.total)}{there}; each bar begins where the one above ends"
        + (", the dashed line is what there is" if stage.capacity else ""),
        size=(_WIDTH, 20 + _ROW * len(parts)),
    )  # fmt: skip


def interval_bars(plan: Plan, key: str) -> Plot | None:
    """A figure of the stages and of the whole run as bars, each with its 80 % interval; None where there is none."""
    found = {stage.name: stage.figures[key] for stage in plan.stages if key in stage.figures}
    if len(plan.stages) != 1 and key in plan.totals:
        found["together"] = plan.totals[key]
    if not found:
        return None
    figure = words.figure_of(key)
    told = {name: _told(key, interval) for name, interval in found.items()}

    def paint(_: Figure, axes: Axes) -> None:
        _whiskers(axes, found, [words.told(key, interval) for interval in found.values()])

    return plot(
        f"interval-{key.replace('_', '-')}",
        paint,
        title=figure.title,
        summary=f"{figure.title}: " + "; ".join(f"{name} {text}" for name, text in told.items()) + ".",
        caption="Lines: 80 % intervals",
        size=(_WIDTH, 24 + 1.35 * _ROW * len(found)),
    )


def _told(key: str, interval: Interval) -> str:
    spread = words.spread(key, interval)
    return words.told(key, interval) + (f" ({spread})" if spread else "")


def _bars(
    axes: Axes,
    labels: Sequence[str],
    values: Sequence[float],
    colours: Sequence[str],
    told: Sequence[str],
    left: Sequence[float] | np.ndarray | None = None,
) -> None:
    """Horizontal bars, top down, each with what is told of it beside it."""
    places = range(len(values))
    axes.barh(places, values, left=left, color=colours, height=0.66)
    ends = np.asarray(values) + (0.0 if left is None else np.asarray(left))
    most = float(ends.max())
    for place, (end, text) in enumerate(zip(ends, told, strict=True)):
        # Beside the bar where there is room, else before it: bars that begin late end at the right edge.
        late = left is not None and end > 0.75 * most
        at = left[place] if late and left is not None else end
        axes.annotate(
            text, (at, place), xytext=(-5 if late else 5, 0), textcoords="offset points", va="center",
            ha="right" if late else "left", color=INK,
        )  # fmt: skip
    _rows(axes, labels)
    axes.set_xlim(0, most * (1.05 if left is not None else 1.32))


def _whiskers(axes: Axes, found: Mapping[str, Interval], told: Sequence[str]) -> None:
    places = np.arange(len(found))
    values = [interval.value for interval in found.values()]
    axes.barh(places, values, color=SERIES[0], height=0.5, alpha=0.85)
    for place, interval, text in zip(places, found.values(), told, strict=True):
        axes.plot([interval.low, interval.high], [place, place], color=INK, linewidth=1.3, solid_capstyle="butt")
        for end in (interval.low, interval.high):
            axes.plot([end, end], [place - 0.12, place + 0.12], color=INK, linewidth=1.3)
        axes.annotate(
            text, (interval.high, place), xytext=(7, 0), textcoords="offset points", va="center", color=INK
        )  # fmt: skip
    _rows(axes, list(found))
    axes.set_xlim(0, max(interval.high for interval in found.values()) * 1.3)


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [short(label) for label in labels], color=INK)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.grid(False)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
