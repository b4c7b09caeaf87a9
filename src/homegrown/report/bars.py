"""Bar charts of a run's end results."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from homegrown.report.analysis import ActiveHistogram, Throughput
from homegrown.report.numbers import duration, fixed, parameters, percent, quantity
from homegrown.report.svg import INK, MUTED, SERIES, Plot, plain_ticks, plot
from homegrown.report.text import short

_ROW = 34
"""Height of a horizontal bar with its gap, in CSS pixels."""
_BARS = 60
"""Most bars of a histogram; neighbours are added up where there are more."""


def score_bars(model: float, baselines: dict[str, float]) -> Plot | None:
    """Bits per byte of the model and of the compressors, best first; None without a finite score."""
    if not math.isfinite(model):
        return None
    entries = sorted([("this model", model), *baselines.items()], key=lambda entry: entry[1])
    return _rows(
        "score", entries, {"this model"}, fixed,
        title="Held-out bits per byte", caption="Lower is better.",
    )  # fmt: skip


def flops_bars(throughput: Throughput) -> Plot | None:
    """Achieved FLOP/s against the measured peak of each dtype."""
    if throughput.achieved_flops is None or not throughput.peak_flops:
        return None
    peaks = [(f"peak, {dtype}", value) for dtype, value in throughput.peak_flops.items()]
    entries = [("training step", throughput.achieved_flops), *sorted(peaks, key=lambda entry: entry[1])]
    return _rows(
        "flops", entries, {"training step"}, lambda value: quantity(value, "FLOP/s"),
        title="Training against the machine's limits", caption="Peaks are matrix products, measured on this machine.",
    )  # fmt: skip


def time_bars(times: dict[str, float]) -> Plot | None:
    """Seconds of each stage, in order."""
    return _rows(
        "times", list(times.items()), set(times), duration,
        title="Stages", caption=f"Together {duration(sum(times.values()))}.",
    )  # fmt: skip


def active_bars(histogram: ActiveHistogram) -> Plot | None:
    """Share of the tokens at each number of active parameters; None for an empty histogram."""
    used = np.flatnonzero(histogram.fraction)
    if not len(used):
        return None
    active = np.array(histogram.active_params)[used[0] : used[-1] + 1]
    share = np.array(histogram.fraction)[used[0] : used[-1] + 1]
    share = share / share.sum()
    mean = float(active @ share)
    likely = int(share.argmax())
    together = math.ceil(len(active) / _BARS)
    starts = np.arange(0, len(active), together)
    heights = np.add.reduceat(share, starts)
    width = together * (active[-1] - active[0]) / max(len(active) - 1, 1) or 1.0
    centres = active[starts] + (width * (together - 1) / together) / 2

    def paint(_: Figure, axes: Axes) -> None:
        axes.bar(centres, heights, color=SERIES[0], width=0.85 * width)
        axes.axvline(mean, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=f"mean {parameters(mean)}")
        axes.legend(loc="upper right")
        axes.margins(y=0.15)
        plain_ticks(axes.xaxis)
        plain_ticks(axes.yaxis, 5)
        axes.xaxis.set_major_formatter(lambda value, _: parameters(value))
        axes.yaxis.set_major_formatter(lambda value, _: percent(value, 0))
        axes.set_xlabel("active parameters")

    return plot(
        "active-histogram",
        paint,
        title="Distribution over tokens",
        summary=f"Tokens use {parameters(active[0])} to {parameters(active[-1])} parameters, {parameters(mean)} on "
        f"average; the most common number is {parameters(active[likely])}, in {percent(share[likely])} of the tokens.",
        caption="Share of the held-out tokens",
        size=(460, 270),
    )


def _rows(
    name: str,
    entries: list[tuple[str, float]],
    marked: set[str],
    tell: Callable[[float], str],
    *,
    title: str,
    caption: str,
) -> Plot | None:
    """Horizontal bars from zero, top down, each with its value as `tell` says it; None if no value is finite.

    Those in `marked` stand out.
    """
    kept = [(label, value) for label, value in entries if math.isfinite(value)]
    if not kept:
        return None
    strong = [label in marked for label, _ in kept]
    labels = [short(label) for label, _ in kept]
    values = [value for _, value in kept]
    told = [tell(value) for value in values]

    def paint(_: Figure, axes: Axes) -> None:
        places = range(len(values))
        bars = axes.barh(places, values, color=[SERIES[0] if strength else MUTED for strength in strong], height=0.62)
        for bar, strength in zip(bars, strong, strict=True):
            bar.set_alpha(1.0 if strength else 0.55)
        axes.bar_label(bars, told, padding=5, color=INK)
        axes.set_yticks(places, labels, color=INK)
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.grid(False)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)

    summary = "; ".join(f"{label} {value}" for label, value in zip(labels, told, strict=True))
    size = (460, 16 + _ROW * len(values))
    return plot(name, paint, title=title, summary=f"{title}: {summary}.", caption=caption, size=size)
