"""The same run on fewer and on more devices."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from homegrown.plan import words
from homegrown.plan.results import Plan
from homegrown.report.numbers import count
from homegrown.report.svg import INK, MUTED, SERIES, Plot, plain_ticks, plot


def scale_plot(plan: Plan, key: str) -> Plot | None:
    """A figure of the run over the number of devices, with its 80 % interval; None with fewer than two numbers."""
    found = [(scale.devices, scale.figures[key]) for scale in plan.scales if key in scale.figures]
    if len(found) < 2:
        return None
    found.sort(key=lambda entry: entry[0])
    devices = [number for number, _ in found]
    figure = words.figure_of(key)
    own = plan.totals.get(key)

    def paint(_: Figure, axes: Axes) -> None:
        axes.set_xscale("log")
        axes.set_yscale("log")
        low, high = [interval.low for _, interval in found], [interval.high for _, interval in found]
        axes.fill_between(devices, low, high, color=SERIES[0], alpha=0.18, linewidth=0)
        axes.plot(devices, [interval.value for _, interval in found], "o-", color=SERIES[0], markersize=4.5)
        if key == "days":
            ideal = [found[0][1].value * devices[0] / number for number in devices]
            axes.plot(devices, ideal, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="in proportion")
            axes.legend(loc="upper right")
        if own is not None:
            axes.plot([plan.devices], [own.value], "o", color=INK, markersize=8, markerfacecolor="none")
        axes.set_xlabel("devices")
        plain_ticks(axes.xaxis)
        plain_ticks(axes.yaxis)
        unit = {"days": "days", "mwh": "MWh", "usd": "US dollars"}.get(key)
        axes.set_ylabel(unit or figure.title)

    told = "; ".join(f"{count(number)} devices {words.told(key, interval)}" for number, interval in found)
    return plot(
        f"scale-{key.replace('_', '-')}",
        paint,
        title=f"{figure.title} against devices",
        summary=f"{figure.title}: {told}.",
        caption="Band: 80 % interval. Ring: this plan.",
        size=(460, 290),
    )
