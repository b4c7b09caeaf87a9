"""The best layouts under a memory limit: every valid one is looked at, or shown to be no better than those found."""

from __future__ import annotations

import gc
import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf

from homegrown.plan.bounds import Bounds
from homegrown.plan.enumerate import Fold, Frame, Sort, Space
from homegrown.plan.memory import Overheads, memory, stage_memory
from homegrown.plan.results import Candidate
from homegrown.plan.step import StepModel

Tick = Callable[[float], None]
"""Told which share of the search is done."""
EVERY = 64
"""Frames and folds between two ticks."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found.

    Attributes:
        best: by tokens a second, the best first; one of each sort.
        considered: layouts that were looked at. fitting: those among them that fit.
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
    overheads: Overheads,
    limit: float,
    *,
    count: int = 5,
    tick: Tick | None = None,
) -> Found:
    """The best layouts of a space: those with most tokens a second that fit.

    Of each sort only the best one counts, lest the list be filled with layouts that hardly differ.

    Args:
        space: the valid layouts.
        model, overheads: of step times and of memory, with everything at its best guess.
        limit: bytes of a device.
        count: how many are wanted.
        tick: told the progress.
    """
    with _no_collection():
        return _Search(space, model, overheads, limit, count, tick).run()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the garbage collector, which would go through a million small tuples over and over (a third of the time)
    and find no cycle among them."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _Search:
    """Best-first branch and bound: frames, then their folds, are taken in order of what they could do at best, so that
    the first that cannot be among the best ends the search."""

    def __init__(
        self, space: Space, model: StepModel, overheads: Overheads, limit: float, count: int, tick: Tick | None
    ) -> None:
        self._space, self._model, self._overheads = space, model, overheads
        self._limit, self._count, self._tick = limit, count, tick
        self._bounds = Bounds(space, model, lambda layout: stage_memory(space.shape, layout, overheads))
        self._queue: list[tuple[float, Frame, Fold | None, bool]] = [
            (self._bounds.of_frame(frame), frame, None, False) for frame in space.frames()
        ]
        self._kept: dict[Sort, tuple[float, Candidate]] = {}
        self._worst = inf  # seconds of a token from which on a layout is not among the best
        self._considered = self._fitting = 0
        self._smallest = inf

    def run(self) -> Found:
        """Search until nothing can be better."""
        heapq.heapify(self._queue)
        frames, opened, taken, done = len(self._queue), 0, 0, 0.0
        while self._queue and self._queue[0][0] < self._worst:
            _, frame, fold, sharp = heapq.heappop(self._queue)
            if fold is None:
                opened += self._open(frame)
            elif sharp:
                self._look(frame, fold)
            else:
                self._push(self._bounds.of_fold(frame, fold), frame, fold, sharp=True)
            taken += 1
            if self._tick is not None and taken % EVERY == 0:
                done = max(done, taken / (taken + len(self._queue)))  # opening a frame makes more to do
                self._tick(done)
        if self._tick is not None:
            self._tick(1.0)
        best = sorted(self._kept.values(), key=lambda entry: entry[0])
        return Found(
            best=tuple(candidate for _, candidate in best),
            considered=self._considered,
            fitting=self._fitting,
            frames=frames,
            skipped=frames - opened,
            smallest=self._smallest if self._smallest < inf else 0.0,
        )

    def _open(self, frame: Frame) -> bool:
        """Put the folds of a frame in the queue; False if none can fit."""
        folds = list(self._space.folds(frame))
        floor = self._bounds.memory(frame, folds)
        if not folds or floor.least > self._limit:
            self._smallest = min(self._smallest, floor.least or inf)
            return False
        for fold in folds:
            if floor.of(fold.spread) <= self._limit:
                self._push(self._bounds.of_fold_at_least(frame, fold), frame, fold, sharp=False)
        return True

    def _push(self, pace: float, frame: Frame, fold: Fold, *, sharp: bool) -> None:
        """Put a fold in the queue, under a bound that is quickly had, or under a sharp one."""
        if pace < self._worst:
            heapq.heappush(self._queue, (pace, frame, fold, sharp))

    def _look(self, frame: Frame, fold: Fold) -> None:
        """Look at all layouts of a frame and a fold.

        Recomputation saves memory and makes passes longer. Longer passes may hide more traffic of gradients, so that of
        layouts that fit more of it is tried only as far as the traffic that shows could make up for it.
        """
        for layout in self._space.layouts(frame, fold):
            for recompute in self._space.recomputes():
                one = replace(layout, recompute=recompute)
                self._considered += 1
                need = memory(self._space.shape, one, self._overheads)
                if need.total > self._limit:
                    self._smallest = min(self._smallest, need.total)
                    continue
                self._fitting += 1
                time = self._model.step_time(one)
                self._keep(frame.sort, Candidate(layout=one, time=time, memory=need))
                if (time.seconds - time.exposed.get("dp", 0.0)) / time.tokens >= self._wanted(frame.sort):
                    break

    def _wanted(self, sort: Sort) -> float:
        """Seconds of a token that a layout of a sort must stay below to matter."""
        return min(self._worst, self._kept[sort][0] if sort in self._kept else inf)

    def _keep(self, sort: Sort, candidate: Candidate) -> None:
        """Keep a layout if it is better than the one of its sort, and than the worst of the best."""
        pace = candidate.time.seconds / candidate.time.tokens
        if pace >= self._wanted(sort):
            return
        self._kept[sort] = pace, candidate
        if len(self._kept) > self._count:
            del self._kept[max(self._kept, key=lambda one: self._kept[one][0])]
        if len(self._kept) == self._count:
            self._worst = max(pace for pace, _ in self._kept.values())
