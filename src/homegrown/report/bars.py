"""Bar charts of a run's end results."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from homegrown.report.analysis import ActiveHistogram, Throughput
from homegrown.report.numbers import duration, fixed, parameters, percent, quantity
from homegrown.report.svg import INK, MUTED, SERIES, Plot, plain_ticks, plot
from homegrown.report.text import visible

_ROW = 34
"""Height of a horizontal bar with its gap, in CSS pixels."""


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
    counts = range(len(histogram.fraction))
    total = sum(histogram.fraction)
    if not total > 0:
        return None
    mean = sum(a * f for a, f in zip(histogram.active_params, histogram.fraction, strict=True)) / total
    mean_count = sum(k * f for k, f in zip(counts, histogram.fraction, strict=True)) / total
    every = 1 + len(counts) // 9

    def paint(_: Figure, axes: Axes) -> None:
        axes.bar(counts, histogram.fraction, color=SERIES[0], width=0.82)
        axes.axvline(mean_count, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"mean {parameters(mean)}", (mean_count, 1), xycoords=("data", "axes fraction"), xytext=(5, -10),
            textcoords="offset points", color=INK,
        )  # fmt: skip
        plain_ticks(axes.yaxis, 5)
        axes.yaxis.set_major_formatter(lambda value, _: percent(value, 0))
        axes.set_xticks(counts[::every], [f"{k}\n{parameters(histogram.active_params[k])}" for k in counts[::every]])
        axes.set_xlabel("real experts (mean over layers), and active parameters")

    likely = max(counts, key=lambda k: histogram.fraction[k])
    return plot(
        "active-histogram",
        paint,
        title="Active parameters per token",
        summary=f"Mean {parameters(mean)}. Most tokens, {percent(histogram.fraction[likely])}, use "
        f"{parameters(histogram.active_params[likely])} with {likely} real experts.",
        caption="Share of the held-out tokens",
        size=(460, 300),
        wide=(760, 320),
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
