"""Outcomes on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table

from homegrown.plan.validate import wording
from homegrown.plan.validate.replay import Outcome
from homegrown.plan.validate.summary import RIVALS, against, by_group


def tables(outcomes: Sequence[Outcome]) -> Iterable[Table]:
    """A table of all figures, and the summary."""
    yield _figures(outcomes)
    yield _summary(outcomes)


def _figures(outcomes: Sequence[Outcome]) -> Table:
    table = Table(title="published runs, replayed from their inputs", caption=wording.EXPLANATION)
    table.add_column("run", overflow="fold")
    table.add_column("figure")
    for heading in ("published", "predicted", "80 % interval", "error"):
        table.add_column(heading, justify="right")
    for heading in ("", "", "remark"):
        table.add_column(heading, overflow="fold")
    group = ""
    for outcome in outcomes:
        if outcome.run.group != group:
            table.add_section()
            group = outcome.run.group
        cells = (
            wording.name(outcome),
            outcome.figure.title,
            wording.published(outcome),
            wording.predicted(outcome),
            wording.interval(outcome.figure, outcome.predicted),
            wording.error(outcome),
            wording.held(outcome),
            wording.verdict(outcome),
            wording.remark(outcome),
        )
        table.add_row(*map(escape, cells), style="yellow" if outcome.missed else None)
    return table


def _summary(outcomes: Sequence[Outcome]) -> Table:
    table = Table(title="errors by kind of figure")
    table.add_column("")
    for heading in wording.SUMMARY_HEADINGS:
        table.add_column(heading, justify="right")
    summaries = by_group(outcomes)
    for summary in summaries:
        if summary is summaries[-1]:
            table.add_section()
        table.add_row(summary.name, *wording.summary_cells(summary))
    return table


def sentences(outcomes: Sequence[Outcome]) -> list[str]:
    """What the tables say, in plain lines."""
    lines = []
    for rival in RIVALS:
        ours = against(rival, outcomes)
        if ours is not None:
            lines.append(
                f"{rival.figure} on Korthikanti's rows: {ours.mean:.2%} on average and {ours.largest:.2%} at most; "
                f"{rival.name} {rival.mean:.2%} and {rival.largest:.2%} ({rival.source})"
            )
    misses = sum(outcome.missed and not outcome.published.uncounted for outcome in outcomes)
    counted = sum(not outcome.published.uncounted for outcome in outcomes)
    lines.append(f"{counted - misses} of {counted} published figures are hit, {misses} missed")
    return lines
