"""The timeline of one step: what each pipeline stage does when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path

from homegrown.plan import words
from homegrown.plan.results import Span, Stage
from homegrown.report.numbers import quantity
from homegrown.report.svg import INK, SERIES, WIDE, Plot, plain_ticks, plot

_MOST = 4000
"""Passes that are drawn; of more, the first and the last are, with the same pattern between them left out."""
_ROWS = 16
"""Pipeline stages that are drawn."""
KINDS = {
    "forward": ("forward", SERIES[0]),
    "backward": ("backward", SERIES[1]),
    "inputs": ("backward, gradients of inputs", SERIES[1]),
    "weights": ("backward, gradients of weights", SERIES[4]),
}
_COLOURS: Mapping[words.Group, str] = {"compute": SERIES[0], "exposed": SERIES[1], "waiting": SERIES[5]}
_UNIT = 72
"""CSS pixels an inch of a drawing."""
_LETTER = 6.5
"""CSS pixels of a letter."""


def timeline(stage: Stage, number: int) -> Plot:
    """Passes of micro-batches through the pipeline; without one, what a step of a device consists of, in order."""
    return _passes(stage, number) if stage.timeline else _strip(stage, number)


def _passes(stage: Stage, number: int) -> Plot:
    spans = stage.timeline
    rows = _chosen(sorted({span.device for span in spans}))
    end = max(span.end for span in spans)
    shown = [span for span in spans if span.device in rows]
    ends = _window(shown, end)
    kinds = [kind for kind in KINDS if any(span.kind == kind for span in shown)]

    def paint(_: Figure, axes: Axes) -> None:
        paired = Counter((span.device, span.start, span.end) for span in shown)
        for kind in kinds:
            drawn = [span for span in shown if span.kind == kind and span.start < ends]
            axes.add_patch(PathPatch(_boxes(drawn, rows, paired), facecolor=KINDS[kind][1], linewidth=0))
        axes.set_xlim(0, ends)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [str(row + 1) for row in rows], color=INK)
        axes.set_ylabel("pipeline stage" if len(rows) > 7 else "stage")
        axes.set_xlabel("seconds")
        axes.grid(False)
        plain_ticks(axes.xaxis)
        handles = [Patch(color=KINDS[kind][1], label=KINDS[kind][0]) for kind in kinds]
        axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)

    stages = 1 + max(span.device for span in spans)
    busy = sum(span.end - span.start for span in shown) / (len(rows) * end)
    micro_batches = len({span.micro_batch for span in spans})
    all_ = stage.best.layout.micro_batches
    some = (
        f" Drawn for {micro_batches} of {all_}, which repeat one another in the middle." if all_ > micro_batches else ""
    )
    cut = "" if ends >= end else f" Shown: the first {quantity(ends, 's')}."
    few = "" if len(rows) == stages else f" Shown: {len(rows)} of its stages."
    return plot(
        f"timeline-{number}",
        paint,
        title=f"Timeline of a step of {stage.name}",
        summary=f"{micro_batches} micro-batches pass forward and backward through {stages} "
        f"pipeline stages in {quantity(end, 's')}; the stages drawn compute for {busy:.0%} of it.",
        caption=f"{micro_batches} micro-batches, {words.SCHEDULES[stage.best.layout.schedule]}; gaps are waiting."
        + some + cut + few,
        size=(460, 120 + 15 * len(rows)),
        wide=(WIDE[0], 110 + 16 * len(rows)),
    )  # fmt: skip


def _chosen(devices: Sequence[int]) -> list[int]:
    """At most `_ROWS` of the devices, the first and the last among them."""
    if len(devices) <= _ROWS:
        return list(devices)
    return [devices[place] for place in np.linspace(0, len(devices) - 1, _ROWS).round().astype(int)]


def _window(spans: Sequence[Span], end: float) -> float:
    """Until when to draw, so that there are not too many passes."""
    if len(spans) <= _MOST:
        return end
    return sorted(span.start for span in spans)[_MOST]


def _boxes(spans: Sequence[Span], rows: Sequence[int], paired: Mapping[tuple[int, float, float], int]) -> Path:
    """All passes of one kind as one path: a page with thousands of elements is slow. Of two that run together the
    forward pass is the upper half."""
    places = {device: place for place, device in enumerate(rows)}
    gap = 0.06 * min((span.end - span.start for span in spans), default=0.0)
    boxes = []
    for span in spans:
        top, bottom = places[span.device] - 0.36, places[span.device] + 0.36
        if paired[span.device, span.start, span.end] > 1:
            top, bottom = (top, (top + bottom) / 2) if span.kind == "forward" else ((top + bottom) / 2, bottom)
        left, right = span.start, span.end - gap
        boxes.append(Path([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], closed=True))
    return Path.make_compound_path(*boxes)


def _strip(stage: Stage, number: int) -> Plot:
    time = stage.best.time
    rows = words.step_rows(time)

    def paint(figure: Figure, axes: Axes) -> None:
        start, pixels = 0.0, _UNIT * figure.get_figwidth()
        for row in rows:
            axes.barh([0], [row.seconds], left=[start], color=_COLOURS[row.group], height=0.5)
            axes.plot([start, start], [-0.25, 0.25], color=INK, linewidth=0.6)
            if len(row.title) * _LETTER < pixels * row.seconds / time.seconds:
                axes.text(start + row.seconds / 2, -0.42, row.title, ha="center", va="center", fontsize=10.5)
            start += row.seconds
        axes.set_xlim(0, time.seconds)
        axes.set_ylim(-0.55, 0.4)
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)
        axes.grid(False)
        axes.set_xlabel("seconds")
        plain_ticks(axes.xaxis)
        groups = dict.fromkeys(row.group for row in rows)
        handles = [Patch(color=_COLOURS[group], label=words.GROUPS[group]) for group in groups]
        axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)

    told = "; ".join(f"{row.title} {quantity(row.seconds, 's')}" for row in rows)
    return plot(
        f"timeline-{number}",
        paint,
        title=f"Timeline of a step of {stage.name}",
        summary=f"{quantity(time.seconds, 's')}: {told}.",
        caption="A device of the slowest stage; parts alike are put together, in the order of the table above",
        size=(460, 130),
        wide=(WIDE[0], 130),
    )
