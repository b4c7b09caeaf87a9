"""Plans as files for programs: JSON with everything, CSV with a line for each layout. Figures are in SI units."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from homegrown.config.atomic import write_text
from homegrown.plan.results import Candidate, Plan, Stage

FORMAT = "homegrown-plan/1"
"""Of the JSON file; the number grows when the meaning of a key changes."""


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan as plain values: what its types hold, and the sums and sizes that follow from it.

    Every figure with an interval is an object of `value`, `low` and `high`.
    """
    return {"format": FORMAT, **_plain(plan)}


def write_json(plan: Plan, path: Path) -> None:
    """Write a plan as JSON."""
    write_text(path, json.dumps(plan_json(plan), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(plan: Plan, path: Path) -> None:
    """Write all layouts of a plan, one a line; only the best of a stage, whose `rank` is 1, has figures of the run."""
    lines = [line for stage in plan.stages for line in _lines(stage)]
    names = dict.fromkeys(name for line in lines for name in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())


def _lines(stage: Stage) -> Iterator[dict[str, Any]]:
    for place, candidate in enumerate((stage.best, *stage.others), start=1):
        line = {"stage": stage.name, "rank": place, **_candidate(candidate)}
        if place == 1:
            for name, figure in stage.figures.items():
                line |= {f"figure.{name}": figure.value, f"figure.{name}.low": figure.low}
                line[f"figure.{name}.high"] = figure.high
        yield line


def _candidate(candidate: Candidate) -> dict[str, Any]:
    """A layout with its time and memory, flat: `layout.tp`, `compute.experts`, `memory.weights`."""
    layout, time, memory = candidate.layout, candidate.time, candidate.memory
    line: dict[str, Any] = {f"layout.{name}": _cell(value) for name, value in dataclasses.asdict(layout).items()}
    line |= {"layout.devices": layout.devices, "step_s": time.seconds, "tokens": time.tokens}
    line["tokens_per_s"] = candidate.tokens_per_second
    for group, parts in (("compute", time.compute), ("exposed", time.exposed), ("hidden", time.hidden)):
        line |= {f"{group}.{name}": seconds for name, seconds in parts.items()}
    line |= {name: getattr(time, name) for name in ("bubble", "optimizer", "imbalance", "straggler", "flops")}
    line |= {f"memory.{name}": number for name, number in memory.parts.items()}
    return line | {"memory.total": memory.total, "memory.host": memory.host}


def _cell(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        return found | {name: getattr(value, name) for name in _DERIVED.get(type(value).__name__, ())}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


_DERIVED = {
    "Layout": ("devices", "micro_batches", "tokens"),
    "StepTime": ("seconds",),
    "Memory": ("total",),
    "Candidate": ("tokens_per_second",),
}
"""Properties that belong into the file."""
