"""Outcomes as one self-contained HTML page, in the style of run reports."""

from __future__ import annotations

from collections.abc import Sequence

import jinja2
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import PercentFormatter

from homegrown.plan.validate import wording
from homegrown.plan.validate.figures import GROUPS
from homegrown.plan.validate.replay import Outcome
from homegrown.plan.validate.summary import by_kind, tables
from homegrown.report.colour import DARK, LEVELS, LIGHT, Scale
from homegrown.report.svg import INK, MUTED, NARROW, SERIES, WIDE, Plot, plot

ROW = 19
"""Height of a line of the plot, in CSS pixels."""
MOST = 30
"""Lines of one plot, where a publication has not more of them itself."""
FARTHEST = 0.6
"""Error at which a mark is set at the plot's edge."""


def page(outcomes: Sequence[Outcome]) -> str:
    """The page: summary, a plot of all errors with their intervals, every figure, and what was missed."""
    loaders = jinja2.PackageLoader("homegrown.plan", "page/templates"), jinja2.PackageLoader("homegrown.report")
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    counted = [outcome for outcome in outcomes if not outcome.published.uncounted]
    return environment.get_template("validation.html").render(
        words=wording,
        outcomes=outcomes,
        groups=tables(outcomes).items(),
        summaries=[(summary.name, wording.summary_cells(summary)) for summary in by_kind(outcomes)],
        counted=len(counted),
        hits=sum(not outcome.missed for outcome in counted),
        missed=[outcome for outcome in counted if outcome.missed],
        plots=[errors_plot(number, *piece) for number, piece in enumerate(_split(counted))],
        levels=LEVELS,
        light=_levels(LIGHT),
        dark=_levels(DARK),
    )


def _split(outcomes: Sequence[Outcome]) -> list[tuple[str, list[Outcome]]]:
    """Outcomes by kind of figure, in pieces that a screen holds; a publication's table stays together if it can."""
    found: list[tuple[str, list[Outcome]]] = []
    for group in tables(outcomes).values():
        kinds = dict.fromkeys(outcome.figure.group for outcome in group)
        for kind in kinds:
            members = [outcome for outcome in group if outcome.figure.group == kind]
            room = next((held for name, held in found if name == kind and len(held) + len(members) <= MOST), None)
            if room is None:
                found.append((kind, list(members)))
            else:
                room.extend(members)
    return sorted(found, key=lambda entry: GROUPS.index(entry[0]))


def errors_plot(number: int, group: str, outcomes: Sequence[Outcome]) -> Plot:
    """Errors of figures of a kind, each with the interval's ends over the published figure; `number` names the plot."""
    lines = list(range(len(outcomes)))[::-1]

    def paint(_: Drawing, axes: Axes) -> None:
        for line, outcome in zip(lines, outcomes, strict=True):
            known = outcome.published.value
            ends = [_held(end / known - 1) for end in (outcome.predicted.low, outcome.predicted.high)]
            axes.plot(ends, [line, line], color=MUTED, linewidth=4, alpha=0.45, solid_capstyle="butt")
            colour = SERIES[1] if outcome.missed else SERIES[0]
            mark = "D" if outcome.missed else "o"
            axes.plot([_held(outcome.predicted.value / known - 1)], [line], mark, color=colour, markersize=5)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(lines, [wording.name(outcome) for outcome in outcomes], fontsize=10)
        axes.set_ylim(-0.8, len(outcomes) - 0.2)
        axes.set_xlim(-FARTHEST, FARTHEST)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")

    height = 60 + ROW * len(outcomes)
    return plot(
        f"errors-{number}",
        paint,
        title=group.capitalize(),
        summary=f"Errors of {len(outcomes)} published figures, each a line with its 80 % interval",
        caption="Predicted over published, less one. Circles are hits, diamonds misses, bars 80 % intervals; what lies "
        f"beyond {FARTHEST:.0%} is set at the edge",
        size=(NARROW[0], height),
        wide=(WIDE[0], height),
    )


def _held(error: float) -> float:
    return max(-FARTHEST, min(error, FARTHEST))


def _levels(scale: Scale) -> Markup:
    """Custom properties that the style sheet asks for."""
    colours = zip(range(LEVELS), scale.colours(), strict=True)
    return Markup(f"--level-ink:{scale.ink};" + "".join(f"--level-{index}:{colour};" for index, colour in colours))
