"""What a finished or running training run of this project measured: seconds of its steps by kind, memory, energy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from homegrown.config import ConfigError, TrainConfig
from homegrown.report.run import Line, Run, read_run

LEAST = 8
"""Steps that a calibration needs."""
WARM = 5
"""First steps, which allocate and fill caches; they are left out where there are enough others."""


@dataclass(frozen=True)
class Kind:
    """Steps alike: with the draft head trained, with the indexer trained."""

    draft: bool
    index: bool


@dataclass(frozen=True)
class Spread:
    """Seconds of steps alike: their median, the tenths, their mean, and how many there were."""

    median: float
    low: float
    high: float
    mean: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run measured.

    Attributes:
        kinds: seconds of its steps.
        around: what scoring, samples, checkpoints and disturbances add to undisturbed steps, as a share of them.
        memory: bytes held at most; 0, not recorded.
        watts: on average; 0, not metered. meter: what metered them.
        peak: FLOP/s of matrix products of the machine by dtype, bandwidth: bytes/s of its memory, as the run's own
            check of the machine found them.
    """

    path: Path
    config: TrainConfig
    device: str
    dtype: str
    kinds: Mapping[Kind, Spread]
    around: float
    memory: float
    watts: float
    meter: str
    peak: Mapping[str, float]
    bandwidth: float

    @property
    def step(self) -> float:
        """Seconds of a step, over all of them."""
        return sum(kind.mean * kind.steps for kind in self.kinds.values()) / sum(k.steps for k in self.kinds.values())


def measured(path: Path) -> Measured:
    """Read a run directory.

    Raises:
        ConfigError: something that a calibration needs is missing or damaged, or the run used several processes.
        ReportError: it is no run directory.
    """
    run = read_run(path)
    if run.config is None:
        raise ConfigError(f"{path}: {'; '.join(run.problems) or 'config.toml is missing'}")
    processes = _processes(run.train)
    if processes > 1:
        raise ConfigError(f"{path}: was trained by {processes} processes; calibrate on a run of one")
    if len(run.train) < LEAST:
        raise ConfigError(f"{path}: {len(run.train)} steps in metrics.jsonl; a calibration needs at least {LEAST}")
    environment = run.environment
    watts, meter = _watts(run)
    kinds = _kinds(run.train)
    return Measured(
        path=path,
        config=run.config,
        device=str(_need(environment, path, "device").get("name", "this device")),
        dtype=str(_need(environment, path, "dtype")),
        kinds=kinds,
        around=_around(run, kinds),
        memory=max((float(line["memory_bytes"]) for line in run.train if "memory_bytes" in line), default=0.0),
        watts=watts,
        meter=meter,
        peak=dict(_need(environment, path, "peak_flops")),
        bandwidth=float(_need(environment, path, "bandwidth_bytes_per_s")),
    )


def _need(environment: Mapping[str, Any], path: Path, key: str) -> Any:
    if not environment.get(key):
        raise ConfigError(f"{path}: environment.json has no {key!r}, which a calibration needs")
    return environment[key]


def _processes(lines: Sequence[Line]) -> int:
    for line in lines:
        if line.get("tokens_per_s_per_device"):
            return round(line["tokens_per_s"] / line["tokens_per_s_per_device"])
    return 1


def _kinds(lines: Sequence[Line]) -> dict[Kind, Spread]:
    """Seconds of steps, apart by what they trained."""
    lines = lines[WARM:] if len(lines) >= LEAST + WARM else lines
    found: defaultdict[Kind, list[float]] = defaultdict(list)
    for line in lines:
        found[_kind(line)].append(_seconds(line))
    return {kind: _spread(seconds) for kind, seconds in found.items()}


def _seconds(line: Line) -> float:
    """Of the line's step: its tokens over its rate."""
    return float(line["tokens"]) / float(line["step"]) / float(line["tokens_per_s"])


def _spread(seconds: Sequence[float]) -> Spread:
    low, high = (float(end) for end in np.quantile(seconds, [0.1, 0.9]))
    return Spread(median(seconds), low, high, fmean(seconds), len(seconds))


def _around(run: Run, kinds: Mapping[Kind, Spread]) -> float:
    """Time from the first step to the last over that of as many undisturbed ones, less one: what scoring, samples,
    checkpoints and disturbances add. 0 where the run was resumed, for nobody knows when it stood still."""
    steps = [record for record in run.chain.records if record.kind == "step"]
    starts = sum(record.kind == "start" for record in run.chain.records)
    if starts != 1 or len(steps) < LEAST or len(steps) != len(run.train):
        return 0.0
    first, last = (datetime.fromisoformat(record.time) for record in (steps[0], steps[-1]))
    inside = sum(kinds[_kind(line)].median if _kind(line) in kinds else _seconds(line) for line in run.train[1:])
    return max((last - first).total_seconds() / inside - 1, 0.0)


def _kind(line: Line) -> Kind:
    return Kind(draft=line.get("mtp_loss") is not None, index=line.get("indexer_loss") is not None)


def _watts(run: Run) -> tuple[float, str]:
    """Joules that the ledger recorded over the seconds of the steps, and by what meter."""
    records = [record.payload for record in run.chain.records if record.kind == "energy"]
    joules = sum(float(payload["joules"]) for payload in records)
    seconds = sum(_seconds(line) for line in run.train)
    if not joules or not seconds:
        return 0.0, ""
    return joules / seconds, f"{records[-1].get('source', '')}: {records[-1].get('detail', '')}"
