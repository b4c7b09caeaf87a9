"""Contestants in cases, each with its turn in every round, and the entries that come of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from homegrown.bench.interleave import Stopwatch, Tick, interleave
from homegrown.bench.record import Spread
from homegrown.bench.speed.limits import Limits, floor
from homegrown.bench.speed.record import OURS, SpeedEntry, Versus


@dataclass
class Contestant:
    """Something that does one case's work in one mode.

    Attributes:
        case, sizes, implementation, mode: as in `SpeedEntry`.
        run: does `units` units of the work.
        units: measured time is divided by this.
        tokens: that a unit makes or reads; 0 where that has no meaning.
        flops, bytes: needed at least for a unit; `None` where there is no floor.
        dtype: whose matrix-multiply peak limits it.
        difference: of its result from our float32 one, where it was compared.
        extra: further figures.
    """

    case: str
    sizes: dict[str, int]
    implementation: str
    mode: str
    run: Callable[[], object]
    units: int = 1
    tokens: int = 0
    flops: float | None = None
    bytes: float | None = None
    dtype: torch.dtype = torch.float32
    difference: float | None = None
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Case, implementation and mode."""
        return f"{self.case}, {self.implementation} {self.mode}"


@dataclass(frozen=True)
class Outcome:
    """What a contest gave."""

    entries: list[SpeedEntry]
    versus: list[Versus]
    limits: dict[str, Spread]
    order: Sequence[str]


def contest(
    contestants: Sequence[Contestant],
    limits: Limits,
    device: torch.device,
    warmup: int,
    repetitions: int,
    tick: Tick = lambda label: None,
) -> Outcome:
    """Give everyone and every limit a turn in each round."""
    watch = Stopwatch(device)

    def turn(contestant: Contestant) -> None:
        with watch.time(contestant.label):
            contestant.run()

    work: dict[str, Callable[[], None]] = {item.label: partial(turn, item) for item in contestants}
    order = interleave(work | limits.turns, warmup, repetitions, tick)
    measured = limits.spreads(warmup)
    entries = [_entry(item, watch, warmup, measured) for item in contestants]
    return Outcome(entries, versus(entries), measured, order)


def turns(contestants: int, limits: int, warmup: int, repetitions: int) -> int:
    """How often `contest` calls its `tick`."""
    return (contestants + limits) * (warmup + repetitions)


def _entry(item: Contestant, watch: Stopwatch, warmup: int, limits: dict[str, Spread]) -> SpeedEntry:
    def per_unit(taken: dict[str, list[float]]) -> Spread:
        return Spread.of([value / item.units for value in taken[item.label][warmup:]])

    seconds = per_unit(watch.seconds)
    least = None if item.bytes is None else floor(item.flops or 0.0, item.bytes, item.dtype, limits)
    return SpeedEntry(
        case=item.case,
        sizes=item.sizes,
        implementation=item.implementation,
        mode=item.mode,
        seconds=seconds,
        processor_seconds=per_unit(watch.processor_seconds),
        tokens_per_s=item.tokens / seconds.median if item.tokens else None,
        floor=least,
        share=least.seconds / seconds.median if least else None,
        difference=item.difference,
        extra=item.extra,
    )


def versus(entries: Sequence[SpeedEntry]) -> list[Versus]:
    """Each of our modes against the best of the peer's in its case; cases without a peer have none."""
    found = []
    for entry in entries:
        peers = [other for other in entries if other.case == entry.case and other.implementation != OURS]
        if entry.implementation != OURS or not peers:
            continue
        best = min(peers, key=lambda other: other.seconds.median)
        rounds = zip(entry.seconds.values, best.seconds.values, strict=True)
        found.append(
            Versus(
                case=entry.case,
                homegrown=entry.mode,
                peer=f"{best.implementation} {best.mode}",
                ratio=best.seconds.median / entry.seconds.median,
                paired=Spread.of([theirs / ours for ours, theirs in rounds]),
            )
        )
    return found
