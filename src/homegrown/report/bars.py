"""Bar charts of a run's end results."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from homegrown.report.analysis import ActiveHistogram, Throughput
from homegrown.report.numbers import duration, fixed, parameters, percent, quantity
from homegrown.report.svg import INK, MUTED, SERIES, Plot, plain_ticks, plot
from homegrown.report.text import visible

_ROW = 34
"""Height of a horizontal bar with its gap, in CSS pixels."""
_BARS = 60
"""Most bars of a histogram; neighbours are added up where there are more."""


def score_bars(model: float, baselines: dict[str, float]) -> Plot:
    """Bits per byte of the model and of the compressors, best first."""
    entries = sorted([("this model", model), *baselines.items()], key=lambda entry: entry[1])
    return _rows(
        "score", entries, {"this model"}, [fixed(value) for _, value in entries],
        title="Held-out bits per byte", caption="Lower is better.",
    )  # fmt: skip


def flops_bars(throughput: Throughput) -> Plot | None:
    """Achieved FLOP/s against the measured peak of each dtype."""
    if throughput.achieved_flops is None or not throughput.peak_flops:
        return None
    peaks = [(f"peak, {dtype}", value) for dtype, value in throughput.peak_flops.items()]
    entries = [("training step", throughput.achieved_flops), *sorted(peaks, key=lambda entry: entry[1])]
    return _rows(
        "flops", entries, {"training step"}, [quantity(value, "FLOP/s") for _, value in entries],
        title="Training against the machine's limits", caption="Peaks are matrix products, measured on this machine.",
    )  # fmt: skip


def time_bars(times: dict[str, float]) -> Plot:
    """Seconds of each stage, in order."""
    return _rows(
        "times", list(times.items()), set(times), [duration(value) for value in times.values()],
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
    groups = np.array_split(np.arange(len(active)), min(_BARS, len(active)))
    centres = np.array([active[group].mean() for group in groups])
    heights = np.array([share[group].sum() for group in groups])
    width = (centres[-1] - centres[0]) / max(len(centres) - 1, 1) or 1.0

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
    name: str, entries: list[tuple[str, float]], marked: set[str], labels: list[str], *, title: str, caption: str
) -> Plot:
    """Horizontal bars from zero, top down, each with its value; those `marked` in the first series colour."""
    entries = [(visible(label), value) for label, value in entries]

    def paint(_: Figure, axes: Axes) -> None:
        colours = [SERIES[0] if label in marked else MUTED for label, _ in entries]
        places = range(len(entries))
        bars = axes.barh(places, [value for _, value in entries], color=colours, height=0.62)
        for bar, (label, _value) in zip(bars, entries, strict=True):
            bar.set_alpha(1.0 if label in marked else 0.55)
        axes.bar_label(bars, labels, padding=5, color=INK)
        axes.set_yticks(places, [label for label, _ in entries], color=INK)
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.grid(False)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)

    told = "; ".join(f"{label} {shown}" for (label, _), shown in zip(entries, labels, strict=True))
    size = (460, 16 + _ROW * len(entries))
    return plot(name, paint, title=title, summary=f"{title}: {told}.", caption=caption, size=size)
