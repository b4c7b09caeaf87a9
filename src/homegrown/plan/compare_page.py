"""A comparison as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import jinja2
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from homegrown.plan.compare import Comparison, Contender
from homegrown.plan.compare_text import SAME_DAYS, SAME_DEVICES, TELL, ratio, told
from homegrown.report.colour import LEVELS
from homegrown.report.svg import INK, MUTED, SERIES, Plot, plain_ticks, plot
from homegrown.report.text import short, visible

_ROW = 40
"""Height of a bar with its gap, in CSS pixels."""
_HEADINGS = {
    "devices": "Devices",
    "days": "Days",
    "mwh": "Energy, GWh",
    "mw": "Power on average, MW",
    "usd": "Cost, million US dollars",
}
"""Figures that are drawn."""


def page(comparison: Comparison) -> str:
    """The page: bars with their intervals, tables, and what is known of each chip's price and sale."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("homegrown.plan", "page/templates"), jinja2.PackageLoader("homegrown.report")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible}
    questions = [
        ("devices", "As many devices", SAME_DEVICES, comparison.same_devices),
        ("days", "As many days", SAME_DAYS, comparison.same_days),
    ]
    sections = [_section(comparison.asked, *question) for question in questions]
    return environment.get_template("compare.html").render(
        comparison=comparison,
        sections=sections,
        headings={name: heading for name, (heading, _) in TELL.items()},
        told=told,
        ratio=ratio,
        levels=LEVELS,
        light=Markup(""),
        dark=Markup(""),
    )


def _section(
    asked: Contender, slug: str, title: str, names: Sequence[str], others: Sequence[Contender]
) -> dict[str, object]:
    rows = [asked, *(row for row in others if not row.problem)]
    return {
        "slug": f"same-{slug}",
        "title": title,
        "names": names,
        "rows": rows,
        "problems": [row for row in others if row.problem],
        "plots": _plots(slug, names, rows),
    }


def _plots(slug: str, names: Sequence[str], rows: Sequence[Contender]) -> list[Plot]:
    shown = [name for name in _HEADINGS if name in names]
    found = [_bars(f"{slug}-{name}", name, [row for row in rows if name in row.figures]) for name in shown]
    return [drawing for drawing in found if drawing is not None]


def _bars(slug: str, name: str, rows: Sequence[Contender]) -> Plot | None:
    """Horizontal bars from zero with their intervals as whiskers, the asked one strong; None without any."""
    if not rows:
        return None
    figures = [row.figures[name] for row in rows]
    labels = [short(row.cluster) for row in rows]
    texts = [told(name, figure) for figure in figures]
    most = max(figure.high for figure in figures)

    def paint(_: Figure, axes: Axes) -> None:
        places = range(len(rows))
        values = [figure.value for figure in figures]
        below = [figure.value - figure.low for figure in figures]
        above = [figure.high - figure.value for figure in figures]
        colours = [SERIES[0] if row.question == "asked" else MUTED for row in rows]
        bars = axes.barh(places, values, color=colours, height=0.5)
        for bar, row in zip(bars, rows, strict=True):
            bar.set_alpha(1.0 if row.question == "asked" else 0.55)
        axes.errorbar(values, places, xerr=[below, above], fmt="none", ecolor=INK, elinewidth=1.4, capsize=4)
        for place, figure, text in zip(places, figures, texts, strict=True):
            axes.annotate(text, (figure.high, place), xytext=(8, 0), textcoords="offset points", va="center", color=INK)
        axes.set_yticks(places, labels, color=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, most * 1.75)
        axes.grid(False)
        plain_ticks(axes.xaxis, 4)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)

    summary = "; ".join(f"{row.cluster} {text}" for row, text in zip(rows, texts, strict=True))
    return plot(
        slug,
        paint,
        title=_HEADINGS[name],
        summary=f"{_HEADINGS[name]}: {summary}.",
        caption="Bars are best guesses; lines hold four of five worlds.",
        size=(460, 16 + _ROW * len(rows)),
    )
