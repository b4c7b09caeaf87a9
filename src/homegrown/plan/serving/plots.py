"""Plots of a serving plan, drawn with the helpers of run reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from homegrown.plan.quantity import Interval
from homegrown.plan.serving.plan import ServePlan
from homegrown.plan.serving.words import amount, range_of
from homegrown.report.svg import INK, MUTED, SERIES, WIDE, Plot, plain_ticks, plot

ROW = 30
"""Height of a horizontal bar with its gap, in CSS pixels."""
MEMORY = (
    "experts",
    "dense",
    "attention",
    "router",
    "embedding",
    "tables",
    "keys",
    "room for keys",
    "runtime",
    "kept free",
)
"""Components of memory, in the order of their bars."""


def plots(plan: ServePlan) -> dict[str, list[Plot]]:
    """The plots of each section of the page."""
    return {
        "front": [front_plot(plan)],
        "time": [
            parts_plot("decode", "A decode step", plan.decode_parts),
            parts_plot("prefill", "A full prefill chunk", plan.prefill_parts),
            prompt_plot(plan),
        ],
        "memory": [memory_plot("decode", plan), memory_plot("prefill", plan)],
        "cost": costs(plan),
    }


def front_plot(plan: ServePlan) -> Plot:
    """Throughput of a device against the time of a token, with the point that was chosen and the bound."""
    times = [point.tpot * 1e3 for point in plan.front]
    rates = [point.rate for point in plan.front]
    tpot, rate = plan.figures["tpot"], plan.figures["decode_tokens_per_s_device"]

    def paint(_: Figure, axes: Axes) -> None:
        axes.plot(times, rates, "o-", color=SERIES[0], markersize=3.5, label="best layouts")
        axes.errorbar(
            tpot.value * 1e3, rate.value,
            xerr=[[(tpot.value - tpot.low) * 1e3], [(tpot.high - tpot.value) * 1e3]],
            yerr=[[rate.value - rate.low], [rate.high - rate.value]],
            fmt="D", color=SERIES[1], markersize=7, capsize=4, label="this plan, 80 % interval",
        )  # fmt: skip
        if plan.targets.tpot:
            axes.axvline(plan.targets.tpot * 1e3, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="bound")
        axes.set_xscale("log")
        axes.set_yscale("log")
        plain_ticks(axes.xaxis)
        plain_ticks(axes.yaxis, 5)
        axes.set_xlabel("milliseconds a token")
        axes.set_ylabel("output tokens/s a device")
        axes.legend(loc="lower center")

    first, last = plan.front[0], plan.front[-1]
    return plot(
        "front",
        paint,
        title="Throughput against latency",
        summary=f"From {amount(first.rate, 'tok/s')} a device at {amount(first.tpot, 'ms')} a token to "
        f"{amount(last.rate, 'tok/s')} at {amount(last.tpot, 'ms')}; this plan has {amount(rate.value, 'tok/s')} at "
        f"{amount(tpot.value, 'ms')}.",
        caption="No layout and batch that was looked at is better in both",
        size=(460, 330),
        wide=WIDE,
    )


def parts_plot(name: str, title: str, parts: Mapping[str, float]) -> Plot:
    """Bars of the parts of a pass."""
    whole = sum(parts.values())
    rows = [(part, seconds, f"{amount(seconds, 'ms')}, {seconds / whole:.0%}") for part, seconds in parts.items()]
    return _bars(f"{name}-parts", title, rows, f"Together {amount(whole, 'ms')}; traffic is what nothing hides")


def memory_plot(pool: str, plan: ServePlan) -> Plot:
    """Bars of the components of a device's memory."""
    parts = plan.memory[pool]
    rows = [(part, parts[part], amount(parts[part], "GB")) for part in MEMORY if parts.get(part, 0) > 0]
    whole = sum(parts.values())
    title = "A device of the decode pool" if pool == "decode" else "A device of the prefill pool"
    return _bars(f"{pool}-memory", title, rows, f"Together {amount(whole, 'GB')}")


def prompt_plot(plan: ServePlan) -> Plot:
    """Seconds of a prompt alone against its length."""
    lengths = [tokens for tokens, _ in plan.prompts]
    seconds = [seconds for _, seconds in plan.prompts]

    def paint(_: Figure, axes: Axes) -> None:
        axes.plot(lengths, seconds, "o-", color=SERIES[2], markersize=4)
        if plan.targets.ttft:
            axes.axhline(plan.targets.ttft, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="bound")
            axes.legend(loc="upper left")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(lengths[::2])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: _binary(tokens)))
        plain_ticks(axes.yaxis, 6)
        axes.set_xlabel("tokens of the prompt")
        axes.set_ylabel("seconds")

    return plot(
        "prompts",
        paint,
        title="A prompt alone on a prefill instance",
        summary=f"From {amount(seconds[0], 's')} for {_binary(lengths[0])} tokens to {amount(seconds[-1], 's')} for "
        f"{_binary(lengths[-1])}.",
        caption="Nothing of it found in a cache, nobody else there",
    )


def costs(plan: ServePlan) -> list[Plot]:
    """Bars of dollars per million tokens, with intervals; none where no price is known."""
    names = {
        "usd_per_million_found": "prompt, found",
        "usd_per_million_missed": "prompt, computed",
        "usd_per_million": "output",
    }
    rows = [(label, plan.figures[name]) for name, label in names.items() if name in plan.figures]
    if not rows:
        return []
    figures = [figure for _, figure in rows]
    told = [f"{amount(figure.value, 'USD')} ({range_of(figure, 'USD')})" for figure in figures]

    def paint(_: Figure, axes: Axes) -> None:
        places = range(len(rows))
        values = [figure.value for figure in figures]
        axes.barh(places, values, color=SERIES[3], height=0.55)
        axes.errorbar(values, places, xerr=_errors(figures), fmt="none", ecolor=INK, capsize=4)
        for place, figure, text in zip(places, figures, told, strict=True):
            axes.annotate(text, (figure.high, place), xytext=(8, 0), textcoords="offset points", va="center", color=INK)
        _bare(axes, [label for label, _ in rows])
        axes.margins(x=0.75)
        axes.set_xlim(left=0)

    return [
        plot(
            "cost", paint, title="Cost of a million tokens",
            summary="; ".join(f"{label} {text}" for (label, _), text in zip(rows, told, strict=True)) + ".",
            caption="With the 80 % interval", size=(460, 40 + ROW * 1.3 * len(rows)),
        )
    ]  # fmt: skip


def _bars(name: str, title: str, rows: Sequence[tuple[str, float, str]], caption: str) -> Plot:
    def paint(_: Figure, axes: Axes) -> None:
        bars = axes.barh(range(len(rows)), [value for _, value, _ in rows], color=SERIES[0], height=0.62)
        axes.bar_label(bars, [text for _, _, text in rows], padding=5, color=INK)
        _bare(axes, [label for label, _, _ in rows])
        axes.margins(x=0.3)

    summary = "; ".join(f"{label} {text}" for label, _, text in rows)
    size = (460, 20 + ROW * len(rows))
    return plot(name, paint, title=title, summary=f"{title}: {summary}.", caption=caption, size=size)


def _bare(axes: Axes, labels: Sequence[str]) -> None:
    """Rows named at the left, without an axis below: each bar says its value."""
    axes.set_yticks(range(len(labels)), labels, color=INK)
    axes.invert_yaxis()
    axes.grid(False)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.spines["left"].set_color(MUTED)


def _errors(figures: Sequence[Interval]) -> list[list[float]]:
    return [[figure.value - figure.low for figure in figures], [figure.high - figure.value for figure in figures]]


def _binary(tokens: float) -> str:
    """Tokens of a context: 128K are 131,072."""
    return f"{tokens / 1024:.3g}K" if tokens < 2**20 else f"{tokens / 2**20:.3g}M"
