"""What a table of outcomes comes to: by group of figures, and against the best model that published its errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from homegrown.plan.validate.figures import GROUPS
from homegrown.plan.validate.replay import Outcome


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Errors of several outcomes; those that do not count are left out.

    Attributes:
        mean, largest, bias: of absolute errors, their largest, and the mean of signed ones; shares, or points.
        intervals, inside: figures with an interval, and those of them whose published figure lies in it.
        tolerances, within: figures with a tolerance, and those within it.
    """

    name: str
    figures: int
    mean: float
    largest: float
    bias: float
    intervals: int
    inside: int
    tolerances: int
    within: int


@dataclass(frozen=True, kw_only=True)
class Rival:
    """Errors that another model published on the same rows."""

    name: str
    figure: str
    mean: float
    largest: float
    source: str


RIVALS: tuple[Rival, ...] = (
    Rival(name="Calculon", figure="step", mean=0.0365, largest=0.0887, source="doi 10.1145/3581784.3607102 table 2"),
    Rival(name="Calculon", figure="activations", mean=0.021, largest=0.087, source="its validation files"),
)
"""On the rows whose id begins with `RIVAL_ROWS`."""
RIVAL_ROWS = "korthikanti-"
RIVAL_STEPS = ("full", "selective")
"""Endings of the ids of the rows that were compared."""


def summarise(name: str, outcomes: Sequence[Outcome]) -> Summary | None:
    """Errors of some outcomes; None, none of them counts."""
    counted = [outcome for outcome in outcomes if not outcome.published.uncounted]
    if not counted:
        return None
    errors = [outcome.error for outcome in counted]
    return Summary(
        name=name,
        figures=len(counted),
        mean=fmean(map(abs, errors)),
        largest=max(map(abs, errors)),
        bias=fmean(errors),
        intervals=sum(outcome.inside is not None for outcome in counted),
        inside=sum(outcome.inside is True for outcome in counted),
        tolerances=sum(outcome.within is not None for outcome in counted),
        within=sum(outcome.within is True for outcome in counted),
    )


def tables(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes by the publication's table that they belong to, in the order of appearance."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.run.group, []).append(outcome)
    return found


def by_kind(outcomes: Sequence[Outcome]) -> list[Summary]:
    """Each group of figures, and last all of them."""
    found = [summarise(group, [one for one in outcomes if one.figure.group == group]) for group in GROUPS]
    return [summary for summary in (*found, summarise("all", outcomes)) if summary is not None]


def against(rival: Rival, outcomes: Sequence[Outcome]) -> Summary | None:
    """Our errors on the rows that another model published its errors on."""
    rows = [
        outcome
        for outcome in outcomes
        if outcome.run.id.startswith(RIVAL_ROWS)
        and outcome.published.figure == rival.figure
        and (rival.figure != "step" or outcome.run.id.endswith(RIVAL_STEPS))
    ]
    return summarise(rival.figure, rows)
