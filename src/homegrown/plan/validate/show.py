"""Outcomes on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from homegrown.plan.validate import wording
from homegrown.plan.validate.replay import Outcome
from homegrown.plan.validate.summary import RIVALS, against, by_kind, tables

ROOMY = 116
"""Columns of a terminal from which intervals stand in the table."""


def shown(outcomes: Sequence[Outcome], width: int) -> Iterator[Table]:
    """A table for each publication, for a terminal so many columns wide, and the summary."""
    for group, members in tables(outcomes).items():
        yield _figures(group, members, width >= ROOMY)
    yield _summary(outcomes)


def _figures(group: str, outcomes: Sequence[Outcome], roomy: bool) -> Table:
    table = Table(title=escape(group), title_justify="left", box=None)
    table.add_column("run", overflow="fold", min_width=12)
    table.add_column("figure", overflow="fold", min_width=9)
    for heading in ("published", "predicted", *(["80 % interval"] if roomy else []), "error"):
        table.add_column(heading, justify="right", no_wrap=roomy or heading == "error")
    table.add_column("80 %", no_wrap=True)
    table.add_column("", no_wrap=True)
    for outcome in outcomes:
        cells = (
            wording.name(outcome),
            outcome.figure.title,
            wording.published(outcome),
            wording.predicted(outcome),
            *([wording.interval(outcome.figure, outcome.predicted)] if roomy else []),
            wording.error(outcome),
            wording.held(outcome),
            wording.verdict(outcome),
        )
        table.add_row(*map(escape, cells), style="yellow" if outcome.missed else None)
    return table


def _summary(outcomes: Sequence[Outcome]) -> Table:
    table = Table(title="errors by kind of figure", box=None)
    table.add_column("")
    for heading in wording.SUMMARY_HEADINGS:
        table.add_column(heading, justify="right")
    for summary in by_kind(outcomes):
        table.add_row(summary.name, *wording.summary_cells(summary))
    return table


def sentences(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What was missed and why, what does not count, and what the tables come to."""
    for outcome in outcomes:
        if remark := wording.remark(outcome):
            yield f"{wording.name(outcome)}, {outcome.figure.title} {wording.error(outcome)}: {remark}"
    for rival in RIVALS:
        ours = against(rival, outcomes)
        if ours is not None:
            yield (
                f"{rival.figure} on Korthikanti's {ours.figures} rows: {ours.mean:.2%} on average and "
                f"{ours.largest:.2%} at most; {rival.name} {rival.mean:.2%} and {rival.largest:.2%} ({rival.source})"
            )
    counted = [outcome for outcome in outcomes if not outcome.published.uncounted]
    misses = sum(outcome.missed for outcome in counted)
    yield f"{len(counted) - misses} of {len(counted)} published figures are hit, {misses} missed"
