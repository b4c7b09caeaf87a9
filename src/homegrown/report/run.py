"""A run directory, read for its report: what is there, what is damaged, nothing made up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homegrown.config import ConfigError, TrainConfig, UserError, build, read_toml
from homegrown.ledger import LedgerError, MetricsError, Record, walk, walk_metrics
from homegrown.report.analysis import Analysis, read_analysis, read_object

RECORD_FILES = ("config.toml", "environment.json", "ledger.jsonl", "metrics.jsonl", "analysis.json")

Line = dict[str, Any]
"""One line of metrics.jsonl."""


class ReportError(UserError):
    """There is no run to report on."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The ledger as far as it could be verified."""

    recorded: bool
    records: list[Record]
    fault: str
    """Why the verification stopped; empty if the whole file is one intact chain."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything a report is made of."""

    path: Path
    config: TrainConfig | None
    config_text: str
    environment: dict[str, Any]
    chain: Chain
    train: list[Line]
    evals: list[Line]
    samples: list[Line]
    events: list[Line]
    analysis: Analysis
    problems: list[str]
    """Sentences on files that are there but damaged."""

    @property
    def name(self) -> str:
        """The run directory's own name."""
        return self.path.resolve().name

    @property
    def tokens(self) -> float | None:
        """Tokens trained on."""
        return _number(self.train[-1], "tokens") if self.train else None

    @property
    def steps(self) -> int | None:
        """Optimizer steps finished."""
        return self.train[-1]["step"] if self.train else None


def read_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        ReportError: `path` is no directory, or holds none of a run's files.
    """
    if not path.is_dir():
        raise ReportError(f"{path}: no such run directory")
    if not any((path / name).exists() for name in RECORD_FILES):
        raise ReportError(f"{path}: not a run directory; one holds {', '.join(RECORD_FILES)}")
    problems: list[str] = []
    config, config_text = _config(path / "config.toml", problems)
    lines = _metrics(path / "metrics.jsonl", problems)
    return Run(
        path=path,
        config=config,
        config_text=config_text,
        environment=read_object(path / "environment.json", problems),
        chain=_chain(path / "ledger.jsonl", problems),
        train=[line for line in lines if line["kind"] == "train"],
        evals=[line for line in lines if line["kind"] == "eval" and _number(line, "bpb") is not None],
        samples=[line for line in lines if line["kind"] == "sample" and isinstance(line.get("text"), str)],
        events=[line for line in lines if line["kind"] == "event"],
        analysis=read_analysis(path / "analysis.json", problems),
        problems=problems,
    )


def _config(path: Path, problems: list[str]) -> tuple[TrainConfig | None, str]:
    if not path.exists():
        return None, ""
    text = path.read_text("utf-8", "replace")
    try:
        return build(TrainConfig, read_toml(path), path.name), text
    except ConfigError as error:
        problems.append(str(error).replace(str(path), path.name))
        return None, text


def _metrics(path: Path, problems: list[str]) -> list[Line]:
    lines: list[Line] = []
    if not path.exists():
        return lines
    try:
        for _, line in walk_metrics(path):
            lines.append(line)
    except MetricsError as error:
        problems.append(f"{str(error).replace(str(path), path.name)}; the lines after it are not shown")
    return lines


def _chain(path: Path, problems: list[str]) -> Chain:
    if not path.exists():
        return Chain(recorded=False, records=[], fault="")
    records: list[Record] = []
    try:
        for record in walk(path):
            records.append(record)  # noqa: PERF402 - the records before a fault are kept
    except LedgerError as error:
        fault = str(error).replace(str(path), path.name)
        problems.append(fault)
        return Chain(recorded=True, records=records, fault=fault)
    return Chain(recorded=True, records=records, fault="")


def _number(line: Line, key: str) -> float | None:
    value = line.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
