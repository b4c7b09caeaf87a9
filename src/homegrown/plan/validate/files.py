"""Outcomes for programs: JSON and CSV, in SI units."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from homegrown.plan.validate.replay import Outcome
from homegrown.plan.validate.summary import RIVALS, against, by_kind

FIELDS = (
    "run", "figure", "point", "published", "published_low", "published_high", "bound", "predicted", "low", "high",
    "error", "tolerance", "inside", "within", "missed", "uncounted", "reason", "group", "kind", "source", "date",
    "mark",
)  # fmt: skip
"""Columns of the CSV, and keys of each outcome in the JSON."""


def record(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain values; times in seconds, memory in bytes, energy in joules, shares as fractions."""
    run, known, said = outcome.run, outcome.published, outcome.predicted
    values = (
        run.id, known.figure, known.point, known.value, known.low, known.high, known.bound, said.value, said.low,
        said.high, outcome.error, known.tolerance, outcome.inside, outcome.within, outcome.missed, known.uncounted,
        outcome.reason, run.group, run.kind, run.source, run.date, run.mark,
    )  # fmt: skip
    return dict(zip(FIELDS, values, strict=True))


def to_json(outcomes: Sequence[Outcome]) -> str:
    """All outcomes, their summary, and the comparison with models that published their errors."""
    ours = ((rival, against(rival, outcomes)) for rival in RIVALS)
    document = {
        "outcomes": [record(outcome) for outcome in outcomes],
        "summary": [asdict(summary) for summary in by_kind(outcomes)],
        "compared": [{"rival": asdict(rival), "ours": asdict(found)} for rival, found in ours if found is not None],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def to_csv(outcomes: Sequence[Outcome]) -> str:
    """One line for each outcome."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(record(outcome) for outcome in outcomes)
    return text.getvalue()
