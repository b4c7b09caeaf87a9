"""A comparison for people in a terminal, and for programs: tables, JSON, CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict

from rich.table import Table

from homegrown.plan.compare import Comparison, Contender
from homegrown.plan.quantity import Interval
from homegrown.report.numbers import fixed, percent

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
RATIOS = ("devices", "days", "device_hours", "mwh", "usd")
"""Figures whose ratios to the first cluster are shown."""


def significant(value: float) -> str:
    """Three digits, and no more of what nobody knows: 12.3, 1,230, 0.123."""
    if value == 0:
        return "0"
    digits = 0
    while digits < 6 and abs(value) * 10**digits < 99.95:
        digits += 1
    return fixed(value, digits) if abs(value) < 999.5 else f"{float(f'{value:.3g}'):,.0f}"


def told(name: str, figure: Interval) -> str:
    """A figure with its interval: `41 (30 to 57)`, or alone where it is certain."""
    tell = TELL[name][1]
    if tell(figure.low) == tell(figure.high):
        return tell(figure.value)
    return f"{tell(figure.value)} ({tell(figure.low)} to {tell(figure.high)})"


def ratio(figure: Interval) -> str:
    """A ratio: `0.42x (0.30 to 0.61)`."""
    return f"{significant(figure.value)}x ({significant(figure.low)} to {significant(figure.high)})"


def tables(comparison: Comparison) -> Iterator[Table]:
    """For the terminal: the run that was asked for and on others with as many devices; then with as many days."""
    asked = comparison.asked
    yield _table(
        f"{comparison.model}, {comparison.tokens / 1e12:g}T tokens, on {asked.devices:,} devices",
        [asked, *comparison.same_devices],
        ("days", "tokens_per_s_device", "goodput", "memory", "mwh", "mw", "usd"),
    )
    if comparison.same_days:
        days = told("days", asked.figures["days"])
        yield _table(
            f"Devices for the same {days} days",
            [asked, *comparison.same_days],
            ("devices", "days", "device_hours", "mwh", "mw", "usd"),
        )


def notes(comparison: Comparison) -> list[str]:
    """What stands below the tables: layouts, prices, sale and export, what was assumed."""
    lines = ["Intervals hold four of five worlds; ratios are to the first line, world by world."]
    for contender in comparison.clusters:
        lines += [f"{contender.cluster}: {note}" for note in contender.notes]
    return [*lines, *comparison.assumptions]


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


def _table(title: str, rows: Sequence[Contender], names: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("cluster")
    for name in names:
        table.add_column(TELL[name][0], justify="right")
    for row in rows:
        if row.problem:
            table.add_row(row.cluster, row.problem, *[""] * (len(names) - 1))
        else:
            table.add_row(row.cluster, *(_cell(row, name) for name in names))
    return table


def _cell(row: Contender, name: str) -> str:
    if name not in row.figures:
        return "no price" if name == "usd" else ""
    text = told(name, row.figures[name])
    return f"{text}\n{ratio(row.ratios[name])}" if name in RATIOS and name in row.ratios else text


def _ends(figure: Interval | None) -> tuple[str, str, str]:
    return ("", "", "") if figure is None else (f"{figure.value:.6g}", f"{figure.low:.6g}", f"{figure.high:.6g}")
