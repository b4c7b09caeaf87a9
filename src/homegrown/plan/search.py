"""The best layouts under a memory limit: every valid one is looked at, or shown to be no better than those found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from homegrown.plan.bounds import Bounds
from homegrown.plan.enumerate import Fold, Frame, Sort, Space
from homegrown.plan.memory import memory, stage_memory
from homegrown.plan.results import Candidate
from homegrown.plan.step import StepModel

Tick = Callable[[float], None]
"""Told which share of the search is done."""
EVERY = 64
"""Frames between two ticks."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found.

    Attributes:
        best: by tokens a second, the best first; one of each sort.
        considered: layouts that were looked at. fitting: those among them that fit and might have been the best.
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
    limit: float,
    *,
    count: int = 5,
    tick: Tick | None = None,
) -> Found:
    """The best layouts of a space: those with most tokens a second that fit. Of each sort only the best one counts, lest
    the list be filled with layouts that hardly differ.

    Frames are taken in order of what they could do at best, so that the first that cannot be among the best ends the
    search. Recomputation costs time and saves memory, nothing else: of layouts that differ in it alone, those are not
    looked at that do more of it than one that fits.

    Args:
        space: the valid layouts.
        model: of step times, with everything at its best guess.
        limit: bytes of a device.
        count: how many are wanted.
        tick: told the progress.
    """
    shape = space.shape
    bounds = Bounds(space, model, lambda layout: stage_memory(shape, layout))
    frames = sorted((bounds.of_frame(frame), frame) for frame in space.frames())
    race = _Race(space, model, limit, count)
    skipped, smallest = 0, 0.0
    for done, (pace, frame) in enumerate(frames):
        if tick is not None and done % EVERY == 0:
            tick(done / len(frames))
        if pace >= race.limit:
            skipped += len(frames) - done
            break
        floor = bounds.memory(frame)
        if floor.least > limit:
            skipped += 1
            smallest = min(smallest or floor.least, floor.least)
            continue
        for fold in space.folds(frame):
            if floor.of(fold.spread) <= limit and bounds.of_fold(frame, fold) < race.limit:
                race.enter(frame, fold)
    return Found(
        best=race.best,
        considered=race.considered,
        fitting=race.fitting,
        frames=len(frames),
        skipped=skipped,
        smallest=smallest or race.smallest,
    )


class _Race:
    """The best layout of each of the best sorts so far."""

    def __init__(self, space: Space, model: StepModel, limit: float, count: int) -> None:
        self._space, self._model = space, model
        self._limit, self._count = limit, count
        self._kept: dict[Sort, tuple[float, Candidate]] = {}
        self.considered = self.fitting = 0
        self.smallest = 0.0
        self.limit = inf  # seconds of a token from which on a layout is not among the best

    @property
    def best(self) -> tuple[Candidate, ...]:
        """From the best."""
        return tuple(candidate for _, candidate in sorted(self._kept.values(), key=lambda entry: entry[0]))

    def enter(self, frame: Frame, fold: Fold) -> None:
        """Look at all layouts of a frame and a fold, each with as little recomputation as fits."""
        for layout in self._space.layouts(frame, fold):
            for recompute in self._space.recomputes():
                one = replace(layout, recompute=recompute)
                self.considered += 1
                need = memory(self._space.shape, one)
                if need.total <= self._limit:
                    self.fitting += 1
                    self._keep(frame, Candidate(layout=one, time=self._model.step_time(one), memory=need))
                    break
                self.smallest = min(self.smallest or need.total, need.total)

    def _keep(self, frame: Frame, candidate: Candidate) -> None:
        """Keep a layout if it is better than the one of its sort, and than the worst of the best."""
        pace, sort = candidate.time.seconds / candidate.time.tokens, frame.sort
        if pace >= min(self.limit, self._kept[sort][0] if sort in self._kept else inf):
            return
        self._kept[sort] = pace, candidate
        if len(self._kept) > self._count:
            del self._kept[max(self._kept, key=lambda one: self._kept[one][0])]
        if len(self._kept) == self._count:
            self.limit = max(pace for pace, _ in self._kept.values())
