"""`homegrown report`: a run's page of plots and figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

SUMMARY = "draw the page of a run: plots, samples, compute per token, speed, energy, record"


@dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page from a run's record.

    The page is made from config.toml, environment.json, ledger.jsonl, metrics.jsonl and analysis.json in the run
    directory, at any time, while the run is going on too. What is not recorded yet is named on the page. The page loads
    nothing from anywhere: mail it, print it, keep it."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory of `homegrown train` or `homegrown quickstart`."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The HTML file to write; by default report.html in the run directory."""


def run(argv: list[str]) -> int:
    """Write the page, print its path, and return the exit status."""
    from homegrown.cli.common import parse
    from homegrown.report import write_report

    arguments = parse(Report, argv, "report")
    print(write_report(arguments.run, arguments.out))
    return 0
