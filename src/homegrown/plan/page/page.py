"""The page of a plan: its sections rendered with their templates into one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path

import jinja2

from homegrown.config.atomic import write_text
from homegrown.plan import words
from homegrown.plan.page.sections import sections
from homegrown.plan.results import Plan
from homegrown.report import numbers
from homegrown.report.text import visible


def write_plan_page(plan: Plan, path: Path) -> None:
    """Write the page of a plan: one HTML file, the same bytes for the same plan."""
    write_text(path, render(plan))


def render(plan: Plan) -> str:
    """The page of a plan as HTML. Style and figures are those of run reports."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("homegrown.plan.page"), jinja2.PackageLoader("homegrown.report")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": visible,
        "count": numbers.count,
        "quantity": numbers.quantity,
        "percent": numbers.percent,
        "size": words.size,
    }
    # The style sheet's scale for compute per token has no levels here.
    return environment.get_template("plan.html").render(plan=plan, sections=sections(plan), levels=0, light="", dark="")
