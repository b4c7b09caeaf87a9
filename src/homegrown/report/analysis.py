"""`analysis.json`: what a run measured at its end, typed part by part so that one bad part spoils no other."""

from __future__ import annotations

import json
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The score on the held-out split."""

    bpb: float
    """Bits per byte."""
    bytes: float | None = None
    tokens: float | None = None
    documents: float | None = None


@dataclass(frozen=True, kw_only=True)
class ActiveHistogram:
    """How many parameters tokens use: one entry per count of real experts, from none to all."""

    active_params: list[float]
    fraction: list[float]
    """Share of the tokens, in 0..1."""

    def __post_init__(self) -> None:
        if len(self.active_params) != len(self.fraction):
            raise ValueError(f"{len(self.active_params)} active_params but {len(self.fraction)} fractions")
        _finite(self.active_params + self.fraction)


@dataclass(frozen=True, kw_only=True)
class TokenCompute:
    """A text with the compute each token was given."""

    title: str = ""
    tokens: list[tuple[str, float, float]]
    """Text of the token, real experts on average over the layers, active parameters."""

    def __post_init__(self) -> None:
        _finite([number for _, *numbers in self.tokens for number in numbers])


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Speed of the training step against what the machine can do."""

    tokens_per_s: float | None = None
    """Median over the run."""
    flops_per_token: float | None = None
    achieved_flops: float | None = None
    """FLOP/s."""
    peak_flops: dict[str, float] = field(default_factory=dict)
    """Measured matrix-multiplication peak, FLOP/s per dtype."""
    peak_fraction: float | None = None


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy of the training loop."""

    joules: float
    source: str
    """`counter:NAME` for a hardware counter, `estimate` otherwise."""
    detail: str = ""

    def __post_init__(self) -> None:
        if self.source != "estimate" and not self.source.startswith("counter:"):
            raise ValueError(f"source is {self.source!r}; it must be 'counter:NAME' or 'estimate'")

    @property
    def counter(self) -> str:
        """Name of the hardware counter; empty for an estimate."""
        return self.source.removeprefix("counter:") if self.source != "estimate" else ""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Size of the model: all parameters, and those a token uses."""

    total: float
    active_min: float | None = None
    active_mean: float | None = None
    active_max: float | None = None


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """All parts; one that was not recorded is None or empty."""

    heldout: HeldOut | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    """Bits per byte of general compressors on the same held-out text."""
    active_histogram: ActiveHistogram | None = None
    token_compute: TokenCompute | None = None
    throughput: Throughput | None = None
    energy: Energy | None = None
    parameters: Parameters | None = None
    times: dict[str, float] = field(default_factory=dict)
    """Seconds per stage, in the order the stages ran."""


def read_analysis(path: Path, problems: list[str]) -> Analysis:
    """The parts of `path` that are there and well formed; what is damaged is appended to `problems`."""
    table = read_object(path, problems)
    parts: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(Analysis).items():
        if table.get(name) is None:
            continue
        try:
            parts[name] = msgspec.convert(table[name], kind)
        except msgspec.ValidationError as error:
            problems.append(f"{path.name}: {name}: {error}")
    return Analysis(**parts)


def _finite(numbers: list[float]) -> None:
    if not all(map(math.isfinite, numbers)):
        raise ValueError("NaN or infinity among its numbers")


def read_object(path: Path, problems: list[str]) -> dict[str, Any]:
    """The JSON object in `path`; empty if there is no such file, or if it is damaged, which `problems` then says."""
    if not path.exists():
        return {}
    try:
        table = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name}: cannot be read: {error}")
        return {}
    if not isinstance(table, dict):
        problems.append(f"{path.name}: not a JSON object")
        return {}
    return table
