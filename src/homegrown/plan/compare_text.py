"""A comparison for people in a terminal, and for programs: tables, JSON, CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict

from rich.table import Table

from homegrown.plan.compare import RATIOS, Comparison, Contender
from homegrown.plan.quantity import Interval
from homegrown.report.numbers import count, fixed, percent

TELL: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "devices": ("devices", lambda value: significant(value)),
    "days": ("days", lambda value: significant(value)),
    "device_hours": ("M device-hours", lambda value: significant(value / 1e6)),
    "mwh": ("GWh", lambda value: significant(value / 1e3)),
    "mw": ("MW", lambda value: significant(value)),
    "usd": ("M USD", lambda value: significant(value / 1e6)),
    "goodput": ("goodput", lambda value: percent(value, 0)),
    "tokens_per_s_device": ("tokens/s/device", lambda value: significant(value)),
    "memory": ("memory", lambda value: percent(value, 0)),
}
"""Figures as a table names and shows them."""
SAME_DEVICES = ("days", "tokens_per_s_device", "goodput", "memory", "mwh", "mw", "usd")
SAME_DAYS = ("devices", "device_hours", "mwh", "mw", "usd")
"""Figures that each question is answered by."""
_NAMES, _COLUMN = 18, 22
"""Columns of a terminal that names of figures take, and those that a cluster takes."""


def significant(value: float) -> str:
    """Three digits, and no more of what nobody knows: 12.3, 1,230, 0.123."""
    if value == 0:
        return "0"
    digits = 0
    while digits < 6 and abs(value) * 10**digits < 99.95:
        digits += 1
    return fixed(value, digits) if abs(value) < 999.5 else f"{float(f'{value:.3g}'):,.0f}"


def told(name: str, figure: Interval) -> str:
    """A figure with its interval: `41 (30–57)`; one without is exact, and told with all of its digits."""
    tell = TELL[name][1]
    if figure.low == figure.high and name == "devices":
        return count(figure.value)
    if tell(figure.low) == tell(figure.high):
        return tell(figure.value)
    return f"{tell(figure.value)} ({tell(figure.low)}–{tell(figure.high)})"


def ratio(figure: Interval) -> str:
    """A ratio: `0.42x (0.30–0.61)`."""
    value, low, high = (significant(end) for end in (figure.value, figure.low, figure.high))
    return f"{value}x" if low == high else f"{value}x ({low}–{high})"


def tables(comparison: Comparison, width: int = 80) -> Iterator[Table]:
    """For a terminal of so many columns: with as many devices, then with as many days; wide ones in several parts."""
    asked = comparison.asked
    title = f"{comparison.model}, {comparison.tokens / 1e12:g}T tokens, on {asked.devices:,} devices"
    yield from _tables(title, asked, comparison.same_devices, SAME_DEVICES, width)
    title = f"Devices for the same {told('days', asked.figures['days'])} days"
    yield from _tables(title, asked, comparison.same_days, SAME_DAYS, width)


def notes(comparison: Comparison) -> Iterator[str]:
    """What stands below the tables: what could not be planned; layouts, prices, sale and export; assumptions."""
    yield from (f"{row.cluster}, {row.question}: {row.problem}" for row in comparison.rows if row.problem)
    yield "Intervals hold four of five worlds; ratios are to the first column, world by world."
    if any(row.figures["memory"].high > 1 for row in comparison.rows if row.figures):
        yield "Memory above 100 %: in worlds with less of it, or with fuller expert ranks, that layout would not fit."
    for row in comparison.clusters:
        yield f"{row.cluster}: {row.title}"
        yield from (f"  {note}" for note in row.notes)
    yield "assumed:"
    for row in comparison.same_days:
        if not row.problem:
            yield f"  {row.cluster}, same days: planned with {row.devices:,} devices, scaled by device-hours"
    yield from (f"  {line}" for line in comparison.assumptions)


def as_json(comparison: Comparison) -> str:
    """Everything, as JSON."""
    return json.dumps(asdict(comparison), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(comparison: Comparison) -> str:
    """One line a cluster and question, three columns a figure."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = [name for name in TELL if any(name in row.figures for row in comparison.rows)]
    columns = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    ratios = [f"{name}_ratio{end}" for name in RATIOS for end in ("", "_low", "_high")]
    writer.writerow(["question", "cluster", "chip", "unit", *columns, *ratios, "problem"])
    for row in comparison.rows:
        cells = [cell for name in names for cell in _ends(row.figures.get(name))]
        cells += [cell for name in RATIOS for cell in _ends(row.ratios.get(name))]
        writer.writerow([row.question, row.cluster, row.chip, row.unit, *cells, row.problem])
    return file.getvalue()


def _tables(
    title: str, asked: Contender, others: Sequence[Contender], names: Sequence[str], width: int
) -> Iterator[Table]:
    planned = [row for row in others if not row.problem]
    most = max((width - _NAMES) // _COLUMN - 1, 1)
    for start in range(0, len(planned), most):
        rows = [asked, *planned[start : start + most]]
        table = Table(title=title, title_justify="left", header_style="bold")
        table.add_column("")
        for row in rows:
            table.add_column(row.cluster, justify="right")
        for name in names:
            table.add_row(TELL[name][0], *(_cell(row, name) for row in rows))
        yield table


def _cell(row: Contender, name: str) -> str:
    if name not in row.figures:
        return "no price"
    text = told(name, row.figures[name])
    return f"{text}\n{ratio(row.ratios[name])}" if name in row.ratios else text


def _ends(figure: Interval | None) -> tuple[str, str, str]:
    return ("", "", "") if figure is None else (f"{figure.value:.6g}", f"{figure.low:.6g}", f"{figure.high:.6g}")
