"""What an audit's page draws: intervals against what is stated, and against what is known to be reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from homegrown.plan.audit import words
from homegrown.plan.audit.audit import Audit, Row
from homegrown.plan.audit.checks import CONSISTENT, CONTRADICTORY, UNDECIDED, Check
from homegrown.plan.audit.known import Reached
from homegrown.plan.audit.quantities import KINDS
from homegrown.plan.audit.span import Span, union
from homegrown.report.numbers import percent
from homegrown.report.svg import GRID, INK, MUTED, SERIES, Plot, plain_ticks, plot

COLOURS = {CONSISTENT: SERIES[2], CONTRADICTORY: SERIES[1], UNDECIDED: SERIES[5]}
_MARKS = {CONSISTENT: "o", CONTRADICTORY: "X", UNDECIDED: "s"}
_ROW = 30
"""Height of a row, in CSS pixels."""
_MOST = 14
"""Rows of a plot."""
_LABEL = 40
"""Characters of a row's label."""
_FAR = 100.0
"""Factors beyond which a plot of ratios is cut off."""


@dataclass(frozen=True)
class Bar:
    """An interval with a best guess; without one it is a single figure."""

    label: str
    span: Span
    colour: str = SERIES[0]
    mark: str = "o"


def plots(audit: Audit, reached: Sequence[Reached]) -> list[Plot]:
    """The plots of a page, those that there is something to draw for."""
    drawn = [ratios(audit), utilisation(audit, reached), *by_choice(audit), scores(audit)]
    return [item for item in drawn if item is not None]


def utilisation(audit: Audit, reached: Sequence[Reached]) -> Plot | None:
    """Utilisation under each reading, and what published runs say that they reached."""
    found: dict[str, list[Span]] = {}
    name = next((name for name in audit.outcomes if name.startswith("=utilisation")), "")
    matter = _mattering(audit, name)
    for case in audit.cases:
        if name in case.outcomes:
            chosen = {key: choice for key, choice in case.reading.choices.items() if key in matter}
            found.setdefault(words.choices(chosen), []).append(case.outcomes[name][0].likely)
    if not found:
        return None
    implied = [Bar("this claim" if label == "any" else label, union(spans)) for label, spans in found.items()]
    published = [Bar(run.title, Span.exactly(run.share), MUTED) for run in reached]
    bars = [*implied[:_MOST], *published]
    told = "; ".join(f"{bar.label} {KINDS['utilisation'].span(bar.span)}" for bar in implied[:_MOST])
    least, most = (percent(end(run.share for run in reached)) for end in (min, max))

    def paint(_: Figure, axes: Axes) -> None:
        _rows(axes, bars)
        axes.axhline(len(implied[:_MOST]) - 0.5, color=MUTED, linewidth=0.8)
        axes.set_xlim(0, max(0.65, *(min(bar.span.high, 1.05) for bar in bars)))
        axes.xaxis.set_major_formatter(lambda value, _: percent(value, 0))
        axes.set_xlabel("share of the peak")

    return plot(
        "utilisation", paint,
        title="Utilisation under each reading, and what published runs reached",
        summary=f"Implied utilisation: {told}. Published runs reached {least} to {most}.",
        caption="Above the line the claim, on the peak of each reading's own device; below it runs on their own bases",
        size=(460, 70 + _ROW * len(bars)), wide=(1000, 70 + 24 * len(bars)),
    )  # fmt: skip


def _mattering(audit: Audit, name: str) -> list[str]:
    """Ambiguities that change a figure, the strongest first, as many as a plot has rows for."""
    gains = {item.key: item.gain for item in audit.settlings if f"={item.outcome[1:]}" == name.partition("@")[0]}
    names = [item.name for item in audit.claim.ambiguities]
    kept, rows = [], 1
    for key in sorted(names, key=lambda key: -gains.get(key, 0.0)):
        number = len(next(item for item in audit.claim.ambiguities if item.name == key).choices)
        spans = {str(item.outcomes.get(name)) for item in audit.choosings if item.ambiguity == key}
        if len(spans) > 1 and rows * number <= _MOST:
            kept.append(key)
            rows *= number
    return kept


def ratios(audit: Audit) -> Plot | None:
    """What the rest implies over what is stated, check by check."""
    stated = [finding for finding in audit.findings if finding.check.about.statement]
    rows = [row for finding in stated for row in _agreeing_first(finding.rows)[: _MOST // 2]]
    bars = [_ratio(row.check, ", ".join(row.choices.values())) for row in rows[:_MOST]]
    if not bars:
        return None
    told = "; ".join(f"{bar.label} {bar.span.low:.3g} to {bar.span.high:.3g}" for bar in bars)

    def paint(_: Figure, axes: Axes) -> None:
        axes.set_xscale("log")
        _rows(axes, bars)
        axes.axvline(1.0, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        low = max(min(bar.span.low for bar in bars), 1 / _FAR)
        high = min(max(bar.span.high for bar in bars), _FAR)
        axes.set_xlim(min(low, 0.8) / 1.1, max(high, 1.25) * 1.1)
        plain_ticks(axes.xaxis)
        axes.set_xlabel("implied over stated")

    return plot(
        "ratios", paint,
        title="What the rest of the claim implies, over what is stated",
        summary=f"Ratio of implied to stated figures: {told}.",
        caption="A bar that reaches 1 agrees: it allows for how exactly both are known. Cross: contradictory. "
        "Circle: consistent. Square: cannot be decided",
        size=(460, 70 + _ROW * len(bars)), wide=(1000, 70 + 24 * len(bars)),
    )  # fmt: skip


def _agreeing_first(rows: Sequence[Row]) -> list[Row]:
    """Rows that agree before the others: where there is no room for all, they are the ones to see."""
    return sorted(rows, key=lambda row: row.check.verdict != CONSISTENT)


def _ratio(check: Check, reading: str) -> Bar:
    """Implied over stated; a bar reaches 1 exactly if the two intervals meet."""
    implied, said = check.implied.likely, check.about.possible
    value = implied.value / said.value
    low = implied.low / said.high if said.high else 0.0
    high = implied.high / said.low if said.low else math.inf
    span = Span(min(max(low, 1e-6), value), value, max(min(high, 1e6), value))
    label = f"{check.about.name}: {reading}" if reading else check.about.name
    return Bar(label, span, COLOURS[check.verdict], _MARKS[check.verdict])


def by_choice(audit: Audit) -> list[Plot | None]:
    """Energy and cost under each choice of the ambiguity that matters most to them."""
    return [_by_choice(audit, quantity, scale, unit) for quantity, scale, unit in (
        ("energy", 3.6e9, "MWh"), ("cost", 1e6, "million dollars"),
    )]  # fmt: skip


def _by_choice(audit: Audit, quantity: str, scale: float, unit: str) -> Plot | None:
    name, kind = f"={quantity}", KINDS[quantity]
    keys = [item.key for item in audit.settlings if item.outcome == name]
    names = [item.name for item in audit.claim.ambiguities]
    key = next((key for key in keys if key in names), "")
    bars = [
        Bar(item.choice, item.outcomes[name])
        for item in audit.choosings
        if item.ambiguity == key and name in item.outcomes
    ] or ([Bar("this claim", audit.outcomes[name])] if name in audit.outcomes else [])
    if not bars:
        return None
    told = "; ".join(f"{bar.label} {kind.span(bar.span)}" for bar in bars)

    def paint(_: Figure, axes: Axes) -> None:
        _rows(axes, [Bar(bar.label, _over(bar.span, scale)) for bar in bars])
        axes.set_xlim(left=0)
        plain_ticks(axes.xaxis)
        axes.set_xlabel(unit)

    return plot(
        quantity, paint, title=f"{kind.title.capitalize()} implied", summary=f"Implied {kind.title}: {told}.",
        caption=f"By {key}" if key else "", size=(460, 70 + _ROW * len(bars)),
    )  # fmt: skip


def _over(span: Span, scale: float) -> Span:
    return Span(span.low / scale, span.value / scale, span.high / scale)


def scores(audit: Audit) -> Plot | None:
    """Scores with their 95 % intervals, benchmark by benchmark."""
    order = list(dict.fromkeys(item.benchmark.title for item in audit.scores))
    held = sorted(audit.scores, key=lambda item: order.index(item.benchmark.title))
    bars = [
        Bar(
            f"{item.score.model}, {item.benchmark.title}", Span(item.low, item.score.value, item.high),
            SERIES[0] if item.score.own else MUTED,
        )
        for item in held
    ]  # fmt: skip
    if not bars:
        return None
    told = "; ".join(f"{bar.label} {percent(bar.span.value)}" for bar in bars)

    def paint(_: Figure, axes: Axes) -> None:
        _rows(axes, bars)
        for number in range(1, len(held)):
            if held[number].benchmark is not held[number - 1].benchmark:
                axes.axhline(number - 0.5, color=GRID, linewidth=0.8)
        axes.xaxis.set_major_formatter(lambda value, _: percent(value, 0))

    return plot(
        "scores", paint, title="Scores with their 95 % intervals", summary=f"Scores: {told}.",
        caption="Wilson intervals for the number of items; some that overlap still differ: see the table",
        size=(460, 60 + _ROW * len(bars)), wide=(1000, 60 + 24 * len(bars)),
    )  # fmt: skip


def _rows(axes: Axes, bars: Sequence[Bar]) -> None:
    """Intervals as rows, top down, each with its best guess marked."""
    for place, bar in enumerate(bars):
        if bar.span.factor > 1:
            axes.plot([bar.span.low, bar.span.high], [place, place], color=bar.colour, linewidth=6, alpha=0.45,
                      solid_capstyle="butt")  # fmt: skip
        axes.plot([bar.span.value], [place], bar.mark, color=bar.colour, markersize=10 if bar.mark == "X" else 7)
    axes.set_yticks(range(len(bars)), [_short(bar.label) for bar in bars], color=INK)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)


def _short(label: str) -> str:
    return label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…"
