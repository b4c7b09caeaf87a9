"""Files of runs, read: every key known, every unit checked, published figures apart from inputs."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from homegrown.config import ConfigError, read_toml
from homegrown.plan.reading import MARKS, Entry, Origin, did_you_mean
from homegrown.plan.units import SHARE
from homegrown.plan.validate.figures import FIGURES
from homegrown.plan.validate.inputs import Open, inputs_of
from homegrown.plan.validate.rows import spread
from homegrown.plan.validate.runs import Bound, Inputs, Kind, Published, Ratio, Run, Scaling

KINDS: tuple[Kind, ...] = get_args(Kind)
GIVEN: Mapping[str, Bound] = {"value": "", "low": "", "at_least": "at least", "at_most": "at most"}
"""Keys by one of which a published figure is known."""
_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")


def shipped_runs() -> tuple[Run, ...]:
    """The runs that the package brings along, kind by kind, within a kind file by file."""
    folder = resources.files("homegrown.plan") / "data" / "runs"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    runs = _distinct(run for file in files for run in _runs(tomllib.loads(file.read_text("utf-8")), file.name))
    return tuple(sorted(runs, key=lambda run: KINDS.index(run.kind)))


def read_runs(path: Path) -> tuple[Run, ...]:
    """The runs of a file; its ratios are of runs in the same file.

    Raises:
        ConfigError: something in it is missing, unknown, of another type or in another unit; the sentence says where.
    """
    runs = _distinct(_runs(read_toml(path), path.name))
    if not runs:
        raise ConfigError(f"{path}: holds no runs; each is a table [[run]], or a row of a [[table]]")
    return runs


def _distinct(runs: Iterable[Run]) -> tuple[Run, ...]:
    seen: dict[str, Run] = {}
    for run in runs:
        if run.id in seen:
            raise ConfigError(f"run {run.id!r}: two runs have this id; each needs its own")
        seen[run.id] = run
    for run in seen.values():
        for other in (run.inputs.over, run.inputs.under) if isinstance(run.inputs, Ratio) else ():
            if other not in seen:
                raise ConfigError(f"run {run.id!r}: no run {other!r} to compare{did_you_mean(other, seen)}")
    return tuple(seen.values())


def _runs(values: dict[str, Any], where: str) -> Iterator[Run]:
    entry = Entry(values, where, Origin())
    singles, tables = entry.take("run", []), entry.take("table", [])
    entry.done()
    if not isinstance(singles, list) or not isinstance(tables, list):
        raise ConfigError(f"{where}: runs are written as [[run]] and [[table]], with two brackets")
    for table in singles:
        yield _run(table, where)
    for table in tables:
        for row in spread(table, where):
            yield _run(row, where)


def _run(values: dict[str, Any], where: str) -> Run:
    name = Entry(values, where, Origin()).text("id")
    entry = Entry(values, f"{where}: {name}")
    mark, date = entry.origin.mark, entry.text("date")
    if mark is None:
        raise ConfigError(f"{entry.where}: 'mark' is missing; it says how good the source is: {', '.join(MARKS)}")
    if not _DATE.fullmatch(date):
        raise ConfigError(f"{entry.at('date')} = {date!r}: must be written as 2025, 2025-03 or 2025-03-31")
    kind = entry.choice("kind", (*KINDS, None), None)
    if kind is None:
        raise entry.missing("kind", f"one of {', '.join(KINDS)}")
    inputs = inputs_of(kind, Open(entry.take("inputs", {}), entry.at("inputs"), entry.origin))
    outcome = Entry(entry.take("published", {}), entry.at("published"), entry.origin)
    run = Run(
        id=entry.text("id"),
        title=entry.text("title"),
        kind=kind,
        group=entry.text("group", name),
        source=entry.text("source"),
        date=date,
        mark=mark,
        inputs=inputs,
        published=tuple(_published(outcome, values.get("published", {}), entry.take("tolerance"), inputs)),
        notes=entry.texts("notes"),
    )
    entry.done()
    return run


def _published(entry: Entry, keys: Iterable[str], default: Any, inputs: Inputs) -> Iterator[Published]:
    """The figures that came out; `default` is the tolerance of those that have none of their own."""
    points = [label for label, _ in inputs.points] if isinstance(inputs, Scaling) else []
    if not keys:
        raise ConfigError(f"{entry.where}: is empty; figures that a run can publish: {', '.join(FIGURES)}")
    for key in keys:
        figure, _, point = key.partition("@")
        if figure not in FIGURES:
            raise ConfigError(f"{entry.where}: no figure {figure!r}{did_you_mean(figure, FIGURES)}")
        if (figure == "ratio") != isinstance(inputs, Ratio):
            raise ConfigError(f"{entry.at(key)}: runs of kind 'ratio' publish `ratio`, and no others do")
        value = entry.take(key)
        table = value if isinstance(value, Mapping) else {"value": value}
        yield from _figures(table, entry.at(key), figure, [point] if point else points, default)


def _figures(table: Mapping[str, Any], where: str, figure: str, points: list[str], default: Any) -> Iterator[Published]:
    """A figure, or one for each point of a series; an empty text where none was published."""
    shared = {"tolerance": default, **table}
    if "values" not in table:
        yield _figure(Entry(shared, where, Origin()), figure, points[0] if len(points) == 1 else "")
        return
    values = shared.pop("values")
    if not isinstance(values, list) or len(values) != len(points):
        raise ConfigError(f"{where}.values = {values!r}: must be a list of {len(points)}, one for each point")
    for point, value in zip(points, values, strict=True):
        if value != "":
            yield _figure(Entry({**shared, "value": value}, f"{where}@{point}", Origin()), figure, point)


def _figure(entry: Entry, figure: str, point: str) -> Published:
    given = [key for key in GIVEN if key in entry]
    if len(given) != 1 or ("low" in entry) != ("high" in entry):
        raise ConfigError(f"{entry.where}: must say one of value, low with high, at_least, at_most")
    read = FIGURES[figure].kind
    low = read(entry.take(given[0]), entry.at(given[0]))
    high = read(entry.take("high"), entry.at("high")) if "high" in entry else low
    if high < low:
        raise ConfigError(f"{entry.at('high')} = {entry.take('high')!r}: must not be below low")
    tolerance = entry.take("tolerance")
    published = Published(
        figure=figure,
        point=point,
        value=(low + high) / 2,
        low=low,
        high=high,
        bound=GIVEN[given[0]],
        tolerance=None if tolerance is None else SHARE(tolerance, entry.at("tolerance")),
        uncounted=entry.text("uncounted", "-").removeprefix("-"),
        reason=entry.text("reason", "-").removeprefix("-"),
    )
    entry.done()
    return published
