"""The best layouts under a memory limit: every valid one is looked at, or shown to be no better than those found."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from homegrown.plan.bounds import Bounds, ideal_pace
from homegrown.plan.enumerate import Space
from homegrown.plan.layout import Layout, Recompute
from homegrown.plan.results import Candidate, Memory
from homegrown.plan.step import StepModel

Tick = Callable[[float], None]
"""Told which share of the search is done."""
EVERY = 64
"""Frames between two ticks."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found.

    Attributes:
        best: by tokens a second, the best first.
        considered: layouts that were looked at one by one. fitting: those among them that were as good as the best so
            far, and fitted.
        frames, skipped: frames in all, and those that bounds ruled out with all of their layouts.
        smallest: bytes that a layout needs at least that did not fit; 0 if all did.
    """

    best: tuple[Candidate, ...]
    considered: int
    fitting: int
    frames: int
    skipped: int
    smallest: float


def search(
    space: Space,
    model: StepModel,
    need: Callable[[Layout], Memory],
    limit: float,
    *,
    count: int = 5,
    tick: Tick | None = None,
) -> Found:
    """The best layouts of a space: those with most tokens a second that fit.

    Frames are taken in order of what they could do at best, so that the first that cannot be among the best ends the
    search. Recomputation costs time and saves memory, nothing else: of layouts that differ in it alone, those are not
    looked at that do more of it than one that fits.

    Args:
        space: the valid layouts.
        model: of step times, with everything at its best guess.
        need: memory of a layout.
        limit: bytes of a device.
        count: how many are wanted.
        tick: told the progress.
    """
    bounds = Bounds(space, model, need)
    frames = sorted((ideal_pace(space, frame, model.machine), frame) for frame in space.frames())
    race = _Race(model, need, limit, count)
    skipped, smallest = 0, 0.0
    for done, (pace, frame) in enumerate(frames):
        if tick is not None and done % EVERY == 0:
            tick(done / len(frames))
        if pace >= race.limit:
            skipped += len(frames) - done
            break
        if bounds.pace(frame) >= race.limit:
            skipped += 1
            continue
        least = bounds.memory(frame)
        if least > limit:
            skipped += 1
            smallest = min(smallest or least, least)
            continue
        for layout in space.folds(frame):
            race.enter(layout, space.recomputes())
    return Found(
        best=race.best,
        considered=race.considered,
        fitting=race.fitting,
        frames=len(frames),
        skipped=skipped,
        smallest=smallest or race.smallest,
    )


class _Race:
    """The best layouts so far."""

    def __init__(self, model: StepModel, need: Callable[[Layout], Memory], limit: float, count: int) -> None:
        self._model, self._need = model, need
        self.considered = self.fitting = 0
        self.smallest = 0.0
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

    def enter(self, layout: Layout, recomputes: Iterable[Recompute]) -> None:
        """Look at a layout, with as little recomputation as fits."""
        for recompute in recomputes:
            one = replace(layout, recompute=recompute) if recompute != layout.recompute else layout
            self.considered += 1
            time = self._model.step_time(one)
            pace = time.seconds / time.tokens
            if pace >= self.limit:
                return
            memory = self._need(one)
            if memory.total <= self._limit:
                self._keep(pace, Candidate(layout=one, time=time, memory=memory))
                return
            self.smallest = min(self.smallest or memory.total, memory.total)

    def _keep(self, pace: float, candidate: Candidate) -> None:
        """Of equals the one that came first stays: a later one has a lower second number, and leaves earlier."""
        self.fitting += 1
        entry = (-pace, -self.considered, candidate)
        if len(self._heap) == self._count:
            heapq.heapreplace(self._heap, entry)
        else:
            heapq.heappush(self._heap, entry)
