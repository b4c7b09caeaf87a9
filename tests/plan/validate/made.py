"""A file of runs, small and complete, for tests to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

from homegrown.config import overlay
from homegrown.plan.validate.read import read_runs
from homegrown.plan.validate.runs import Run

TRAINING: dict[str, Any] = {
    "id": "mine",
    "title": "my run",
    "kind": "training",
    "source": "my notes",
    "date": "2026-11",
    "mark": "A",
    "inputs": {
        "model": "gpt-22b",
        "cluster": "hgx-a100",
        "devices": 8,
        "sequence": 2048,
        "batch": 4,
        "layout": {"tp": 8, "micro_batch": 4, "fused": False},
    },
    "published": {"step": {"value": "1.1 s", "tolerance": "10 %"}},
}


def write(folder: Path, *runs: dict[str, Any], **tables: Any) -> Path:
    """A file of these runs."""
    path = folder / "runs.toml"
    path.write_text(tomli_w.dumps({"run": list(runs), **tables}), "utf-8")
    return path


def read(folder: Path, **changes: Any) -> tuple[Run, ...]:
    """The run above with changes, as it is read; dotted names as double underscores."""
    run = TRAINING
    for name, value in changes.items():
        nested: Any = value
        for key in reversed(name.split("__")):
            nested = {key: nested}
        run = overlay(run, nested)
    return read_runs(write(folder, run))
