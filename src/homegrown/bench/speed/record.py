"""The result of a speed benchmark as data: one form for prefill, decode, kernels and loading."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from homegrown.bench.record import Origin, Spread

OURS = "homegrown"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What a piece of work takes at least on a machine with these limits, were compute and memory perfectly overlapped.

    Attributes:
        flops: needed by the cheapest known way to compute the result.
        bytes: that must be read at least once: weights that are touched, keys that are seen.
        peak: name of the limit that FLOPs are held against, `multiply DTYPE`.
        seconds: the larger of FLOPs over that limit and bytes over the read bandwidth.
        bound: which of the two it is.
    """

    flops: float
    bytes: float
    peak: str
    seconds: float
    bound: Literal["compute", "memory"]


@dataclass(frozen=True, kw_only=True)
class SpeedEntry:
    """One contestant in one case."""

    case: str
    """What was done, as it is shown: `batch 8, context 4,096`."""
    sizes: dict[str, int]
    """The same as numbers."""
    implementation: str
    mode: str
    seconds: Spread
    """Of one unit: a prompt, a decoding step, a call."""
    processor_seconds: Spread
    """Processor time the process got for it, all threads together."""
    tokens_per_s: float | None = None
    """At the median."""
    floor: Floor | None = None
    share: float | None = None
    """Floor over median: 1 is what the machine can do."""
    difference: float | None = None
    """Of its result from our float32 one, as ‖a − b‖ / ‖b‖."""
    extra: dict[str, float] = field(default_factory=dict)
    """Further figures, each named with its unit."""


@dataclass(frozen=True, kw_only=True)
class Versus:
    """One of our modes against the peer's best in the same case. Above one, ours is faster."""

    case: str
    homegrown: str
    peer: str
    ratio: float
    """The peer's median time over ours."""
    paired: Spread
    """The same within each round."""


@dataclass(frozen=True, kw_only=True)
class SpeedRecord:
    """A speed benchmark. `read_speed` reads it back."""

    kind: str
    schema: int
    origin: Origin
    shape: dict[str, Any]
    """name, model (the resolved config), parameters (total, active where it was measured)."""
    limits: dict[str, Spread]
    """`multiply DTYPE` in FLOP/s and `read` in B/s, once a round; floors are made of the maxima."""
    order: list[str]
    """Everything that ran, in order, warm-up rounds first."""
    warmup: int
    repetitions: int
    entries: list[SpeedEntry]
    versus: list[Versus] = field(default_factory=list)
    ran: dict[str, str] = field(default_factory=dict)
    """What computed it: implementations of ops by their names, and decoding steps by precision."""
    formula: str = ""
    """What FLOPs and bytes of the floors count."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know to judge the figures."""


def read_speed(path: Path) -> SpeedRecord:
    """Read a record back; `msgspec.ValidationError` says where it is not one."""
    return msgspec.json.decode(path.read_bytes(), type=SpeedRecord)
