"""The page: sections rendered with their templates into one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from homegrown.config.atomic import write_text
from homegrown.report import numbers
from homegrown.report.colour import DARK, LEVELS, LIGHT, Scale
from homegrown.report.run import Run, read_run
from homegrown.report.sections import sections
from homegrown.report.text import visible


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of a run as one self-contained HTML file, the same bytes for the same record.

    Args:
        run_dir: run directory; whatever is missing from it is named on the page.
        out: the file; `run_dir`/report.html if not given.

    Returns:
        The file written.

    Raises:
        ReportError: `run_dir` is no run directory.
    """
    page = render(read_run(run_dir))
    path = run_dir / "report.html" if out is None else out
    write_text(path, page)
    return path


def render(run: Run) -> str:
    """The page of a run as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("homegrown.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": visible,
        "quantity": numbers.quantity,
        "parameters": numbers.parameters,
        "count": numbers.count,
        "fixed": numbers.fixed,
        "percent": numbers.percent,
        "duration": numbers.duration,
    }
    first = run.chain.records[0].time if run.chain.records else ""
    return environment.get_template("page.html").render(
        run=run,
        started=first.replace("T", " ")[:16],
        sections=sections(run),
        levels=LEVELS,
        light=_levels(LIGHT),
        dark=_levels(DARK),
    )


def _levels(scale: Scale) -> Markup:
    """Custom properties of a theme's compute scale."""
    colours = zip(range(LEVELS), scale.colours(), strict=True)
    return Markup(f"--level-ink:{scale.ink};" + "".join(f"--level-{index}:{colour};" for index, colour in colours))
