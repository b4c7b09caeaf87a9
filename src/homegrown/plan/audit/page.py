"""An audit as one self-contained HTML page, in the style of run reports."""

from __future__ import annotations

from collections.abc import Mapping

import jinja2

from homegrown.plan.audit import words
from homegrown.plan.audit.audit import Audit
from homegrown.plan.audit.known import Known, counting, reached
from homegrown.plan.audit.plots import plots
from homegrown.plan.audit.quantities import KINDS
from homegrown.plan.audit.span import Span
from homegrown.report.numbers import percent
from homegrown.report.svg import Plot
from homegrown.report.text import visible

_OUTCOMES = ("utilisation", "energy", "cost")


def render(audit: Audit, known: Known) -> str:
    """The page; the same bytes for the same audit."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("homegrown.plan.audit"), jinja2.PackageLoader("homegrown.report")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "percent": percent}
    drawn = {plot.title: plot for plot in plots(audit, reached())}
    basis = audit.cases[0].reading.basis if audit.cases else audit.claim.basis
    return environment.get_template("audit.html").render(
        audit=audit,
        claim=audit.claim,
        words=words,
        outcomes=words.outcomes(audit),
        ratios=_named(drawn, "What the rest"),
        utilisation=_named(drawn, "Utilisation"),
        amounts=[plot for title, plot in drawn.items() if title.endswith("implied")],
        scores=_named(drawn, "Scores"),
        device=known.title(basis),
        counting=counting(basis) if basis.sequence else "six FLOPs per active parameter, and attention",
        choosings=[(item, _says(audit, item.ambiguity, item.choice), _told(item.outcomes)) for item in audit.choosings],
        levels=0,
        light="",
        dark="",
    )


def _named(drawn: dict[str, Plot], start: str) -> Plot | None:
    return next((plot for title, plot in drawn.items() if title.startswith(start)), None)


def _says(audit: Audit, ambiguity: str, choice: str) -> str:
    found = next(item for item in audit.claim.ambiguities if item.name == ambiguity)
    return next(item.says for item in found.choices if item.name == choice)


def _told(outcomes: Mapping[str, Span]) -> list[str]:
    return [KINDS[name].span(outcomes[f"={name}"]) if f"={name}" in outcomes else "" for name in _OUTCOMES]
