"""The result as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from homegrown.bench.record import Origin, Spread


@dataclass(frozen=True, kw_only=True)
class ScalingEntry:
    """One way to take the step."""

    name: str
    processes: int
    threads: int
    """Of each process."""
    layout: str
    deterministic: bool
    loss: float
    """Next-token loss of the first step, in nats a token: the same for all, but for rounding."""
    seconds: Spread
    """A step, as the slowest process saw it: the mean of a turn, once a round."""
    processor_seconds: Spread
    """Processor time of all processes for it."""
    tokens_per_s: float
    """At the median."""
    ratio: float
    """Times the first entry's speed, by medians."""
    paired: Spread
    """The same ratio within each round."""


@dataclass(frozen=True, kw_only=True)
class SumEntry:
    """One way to sum over all processes."""

    name: str
    processes: int
    bytes: int
    """That each process holds, in float32."""
    seconds: Spread
    """As the slowest process saw it: the median of a turn, once a round."""


@dataclass(frozen=True, kw_only=True)
class ScalingRecord:
    """A scaling benchmark. `msgspec.json.decode(text, type=ScalingRecord)` reads it back."""

    kind: str
    schema: int
    origin: Origin
    config: dict[str, Any]
    """The run, as the first entry takes its step."""
    data: str
    """Fingerprint of the dataset; empty where tokens were made up."""
    tokens: int
    """Of a step."""
    steps: int
    """Of a turn."""
    order: list[str]
    """Everything that ran, in order, `warmup` rounds first."""
    warmup: int
    repetitions: int
    entries: list[ScalingEntry]
    sums: list[SumEntry]
