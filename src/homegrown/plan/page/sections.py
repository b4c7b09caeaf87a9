"""Sections of the page: a slug, a title, and what their template needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from homegrown.plan import words
from homegrown.plan.page.bars import interval_bars, memory_bars, step_bars
from homegrown.plan.page.pipeline import timeline
from homegrown.plan.page.roofline import part_order, roofline
from homegrown.plan.page.scale import scale_plot
from homegrown.plan.quantity import Interval
from homegrown.plan.results import Candidate, Plan, Stage
from homegrown.report.numbers import quantity
from homegrown.report.svg import Plot

_HEAD = ("days", "device_hours", "mwh", "usd", "goodput")
"""Figures of the whole run that stand at the top."""
_DRAWN = ("days", "mwh", "usd")
"""Figures that are drawn with their intervals."""


@dataclass(frozen=True)
class Section:
    """One section; its template is called by its slug."""

    slug: str
    title: str
    values: Mapping[str, Any]


def sections(plan: Plan) -> list[Section]:
    """All sections in order. Each says itself what is missing."""
    stages, order = list(enumerate(plan.stages)), part_order(plan)
    return [
        Section("plan-result", "What the run comes to", _result(plan)),
        Section("plan-step", "A step", {"plots": [step_bars(stage, number) for number, stage in stages]}),
        Section("plan-timeline", "Timeline of one step", {"plots": [timeline(stage, n) for n, stage in stages]}),
        Section("plan-roofline", "Roofline", {"plots": _there(roofline(stage, n, order) for n, stage in stages)}),
        Section("plan-memory", "Memory", _memory(plan)),
        Section("plan-devices", "Days against devices", {"plots": _there(scale_plot(plan, key) for key in _DRAWN)}),
        Section("plan-energy", "Energy and cost", {"plots": _there(interval_bars(plan, key) for key in _DRAWN)}),
        Section("plan-layouts", "Layouts", {"stages": [_layouts(stage) for stage in plan.stages]}),
        Section("plan-assumptions", "Assumptions", {"lines": plan.assumptions, "command": plan.command}),
    ]


def _there(plots: Iterable[Plot | None]) -> list[Plot]:
    return [plot for plot in plots if plot is not None]


def _result(plan: Plan) -> dict[str, Any]:
    columns: list[tuple[str, Mapping[str, Interval]]] = [(stage.name, stage.figures) for stage in plan.stages]
    whole = plan.totals if len(plan.stages) != 1 else {**plan.stages[0].figures, **plan.totals}
    if len(plan.stages) > 1:
        columns.append(("together", plan.totals))
    keys = words.ordered(dict.fromkeys(key for _, figures in columns for key in figures))
    days = whole.get("days")
    return {
        "headline": None if days is None else (words.told("days", days), words.spread("days", days)),
        "facts": [
            (words.figure_of(key).title, words.told(key, whole[key]), words.spread(key, whole[key]))
            for key in _HEAD
            if key in whole and key != "days"
        ],
        "columns": [name for name, _ in columns],
        "rows": [(words.figure_of(key).title, [_cell(key, figures) for _, figures in columns]) for key in keys],
        "bases": list(dict.fromkeys(stage.basis for stage in plan.stages)),
    }


def _cell(key: str, figures: Mapping[str, Interval]) -> tuple[str, str]:
    interval = figures.get(key)
    return ("", "") if interval is None else (words.told(key, interval), words.spread(key, interval))


def _memory(plan: Plan) -> dict[str, Any]:
    hosts = [(stage.name, words.size(stage.best.memory.host)) for stage in plan.stages if stage.best.memory.host]
    return {"plots": [memory_bars(stage, number) for number, stage in enumerate(plan.stages)], "hosts": hosts}


def _layouts(stage: Stage) -> dict[str, Any]:
    return {
        "name": stage.name,
        "considered": stage.considered,
        "fitting": stage.fitting,
        "rows": [_layout(candidate) for candidate in (stage.best, *stage.others)],
    }


def _layout(candidate: Candidate) -> tuple[str, str, str, str, str]:
    layout = candidate.layout
    return (
        words.layout_words(layout),
        words.batch_words(layout),
        quantity(candidate.time.seconds, "s"),
        quantity(candidate.tokens_per_second),
        words.size(candidate.memory.total),
    )
