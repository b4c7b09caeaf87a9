"""A serving plan as one self-contained HTML page, in the style of run reports."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from homegrown.config.atomic import write_text
from homegrown.plan.serving.names import FIGURES
from homegrown.plan.serving.plan import ServePlan
from homegrown.plan.serving.plots import plots
from homegrown.plan.serving.text import pool_rows
from homegrown.plan.serving.words import amount, assumptions, layout, range_of, traffic
from homegrown.report.colour import DARK, LEVELS, LIGHT, Scale


def write_page(plan: ServePlan, path: Path) -> None:
    """Write the page of a plan: the same bytes for the same plan."""
    write_text(path, render(plan))


def render(plan: ServePlan) -> str:
    """The page of a plan as HTML."""
    loaders = jinja2.PackageLoader("homegrown.plan", "page/templates"), jinja2.PackageLoader("homegrown.report")
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"amount": amount, "layout": layout}
    figures = [
        (named.title, amount(plan.figures[name].value, named.unit), range_of(plan.figures[name], named.unit))
        for name, named in FIGURES.items()
        if name in plan.figures
    ]
    return environment.get_template("serving.html").render(
        plan=plan,
        traffic=traffic(plan),
        pools=pool_rows(plan),
        figures=figures,
        assumptions=assumptions(plan),
        plots=plots(plan),
        levels=LEVELS,
        light=_levels(LIGHT),
        dark=_levels(DARK),
    )


def _levels(scale: Scale) -> Markup:
    """Custom properties that the style sheet asks for."""
    colours = zip(range(LEVELS), scale.colours(), strict=True)
    return Markup(f"--level-ink:{scale.ink};" + "".join(f"--level-{index}:{colour};" for index, colour in colours))
