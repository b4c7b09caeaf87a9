"""The best layouts under a memory limit: every valid one is looked at, or shown to be no better than those found."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby

from homegrown.plan.bounds import least_memory, least_pace
from homegrown.plan.enumerate import Frame, Space
from homegrown.plan.facts import Machine
from homegrown.plan.layout import Layout
from homegrown.plan.results import Candidate, Memory, StepTime

Tick = Callable[[float], None]
"""Told which share of the search is done."""
EVERY = 64
"""Frames between two ticks."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What a layout is judged by, with everything at its best guess."""

    need: Callable[[Layout], Memory]
    time: Callable[[Layout], StepTime]
    machine: Machine


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found.

    Attributes:
        best: by tokens a second, the best first.
        considered: layouts that were looked at one by one. fitting: those among them that fit.
        frames, skipped: frames in all, and those that bounds ruled out with all of their layouts.
        smallest: bytes that every layout needs at least, of frames that did not fit; 0 if there were none.
    """

    best: tuple[Candidate, ...]
    considered: int
    fitting: int
    frames: int
    skipped: int
    smallest: float


def search(space: Space, model: Model, limit: float, *, count: int = 5, tick: Tick | None = None) -> Found:
    """The best layouts of a space.

    Frames are taken in order of what they could do at best, so that the first that cannot be among the best ends the
    search. Of layouts that differ in recomputation and in the spread of n-gram tables only, those are not looked at
    that do more of both than one that fits, since either costs time and saves memory only.

    Args:
        space: the valid layouts.
        model: what they are judged by.
        limit: bytes of a device.
        count: how many are wanted.
        tick: told the progress.
    """
    frames = sorted((least_pace(space, frame, model.machine), frame) for frame in space.frames())
    race = _Race(model, limit, count)
    skipped, smallest = 0, 0.0
    for done, (pace, frame) in enumerate(frames):
        if tick is not None and done % EVERY == 0:
            tick(done / len(frames))
        if pace >= race.limit:
            skipped += len(frames) - done
            break
        least = least_memory(space, frame, model.need)
        if least > limit:
            skipped += 1
            smallest = min(smallest or least, least)
            continue
        _run(space, frame, race)
    return Found(
        best=race.best,
        considered=race.considered,
        fitting=race.fitting,
        frames=len(frames),
        skipped=skipped,
        smallest=smallest,
    )


class _Race:
    """The best layouts so far."""

    def __init__(self, model: Model, limit: float, count: int) -> None:
        self.model = model
        self.considered = self.fitting = 0
        self._limit, self._count = limit, count
        self._heap: list[tuple[float, int, Candidate]] = []

    @property
    def limit(self) -> float:
        """Seconds of a token from which on a layout is not among the best."""
        return -self._heap[0][0] if len(self._heap) == self._count else float("inf")

    @property
    def best(self) -> tuple[Candidate, ...]:
        """From the best."""
        return tuple(candidate for *_, candidate in sorted(self._heap, key=lambda entry: (-entry[0], -entry[1])))

    def enter(self, layout: Layout) -> bool:
        """Look at a layout; whether it fits."""
        self.considered += 1
        memory = self.model.need(layout)
        if memory.total > self._limit:
            return False
        self.fitting += 1
        candidate = Candidate(layout=layout, time=self.model.time(layout), memory=memory)
        pace = candidate.time.seconds / candidate.time.tokens
        if pace < self.limit:
            # Of equals the one that came first stays: a later one has a lower second number, and leaves earlier.
            entry = (-pace, -self.considered, candidate)
            (heapq.heappushpop if len(self._heap) == self._count else heapq.heappush)(self._heap, entry)
        return True


def _run(space: Space, frame: Frame, race: _Race) -> None:
    for _, alike in groupby(space.folds(frame), key=lambda layout: (layout.ep, layout.etp)):
        layouts = list(alike)
        for recompute in space.recomputes():
            fits = next(
                (place for place, layout in enumerate(layouts) if race.enter(replace(layout, recompute=recompute))),
                len(layouts),
            )
            layouts = layouts[:fits]
