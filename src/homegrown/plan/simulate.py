"""The same run event by event: failures, snapshots, restarts, spares that run out and come back, lost pods.

It knows nothing of the closed form in `goodput`, only what it is about: a clock, a job that is somewhere in its work,
snapshots that are or are not yet out of the job's reach, and parts under repair.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from homegrown.config.errors import ConfigError
from homegrown.plan.failures import DAY, Failures
from homegrown.plan.goodput import Goodput, Saving

WEEK = 7 * DAY
"""Seconds."""


@dataclass(frozen=True)
class Outcome:
    """What became of many runs that differ by chance alone.

    Attributes:
        goodput: of each run, work that ended up in the model over wall time.
        weekly: the same of each run's weeks, run by run; empty if runs are shorter than a week.
        interruptions: of each run. waiting: share of its time spent waiting for repairs.
    """

    goodput: np.ndarray
    weekly: np.ndarray
    interruptions: np.ndarray
    waiting: np.ndarray

    @property
    def mean(self) -> float:
        """Goodput over all runs."""
        return float(self.goodput.mean())

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return float(self.goodput.std(ddof=1) / math.sqrt(len(self.goodput)))

    def weeks(self, shares: Sequence[float] = (0.1, 0.5, 0.9)) -> tuple[float, ...]:
        """Goodput of a week that so large a share of the weeks stays below."""
        return tuple(float(value) for value in np.quantile(self.weekly, shares))


def simulate(
    failures: Failures, saving: Saving, plan: Goodput, *, seconds: float, runs: int = 100, seed: int = 0
) -> Outcome:
    """Run it many times.

    Args:
        failures, saving: of the run.
        plan: gives the interval between snapshots, and how many of them go to storage.
        seconds: wall time of a run.
        runs: how many.
        seed: of chance; the same seed gives the same runs.

    Raises:
        ConfigError: no time, or fewer than two runs.
    """
    if not (0 < seconds < math.inf and runs >= 2):
        raise ConfigError(f"simulation of {runs} runs of {seconds:g} s: needs at least 2 runs of more than 0 s")
    marks = [*np.arange(WEEK, seconds, WEEK), seconds]
    histories = []
    for index in range(runs):
        history = _History(failures, saving, plan, random.Random(f"{seed}/{index}"), marks)
        history.run()
        histories.append(history)
    progress = np.array([history.progress for history in histories])
    whole = int(seconds // WEEK)
    return Outcome(
        goodput=progress[:, -1] / seconds,
        weekly=np.diff(progress[:, :whole], axis=1, prepend=0.0).ravel() / WEEK,
        interruptions=np.array([history.interruptions for history in histories]),
        waiting=np.array([history.waited for history in histories]) / seconds,
    )


@dataclass
class _Parts:
    """Nodes, or pods, with spares: which are under repair, as the times when each is back."""

    repair: float
    spares: int | None
    chance: random.Random
    back: list[float] = field(default_factory=list)

    def lose(self, now: float) -> float:
        """One is lost; the time at which another can stand in for it."""
        if self.spares is None:
            return now
        while self.back and self.back[0] <= now:
            heapq.heappop(self.back)
        heapq.heappush(self.back, now + self.chance.expovariate(1 / self.repair) if self.repair else now)
        return now if len(self.back) <= self.spares else heapq.heappop(self.back)


class _History:
    """One run. Work is counted in seconds of it; a snapshot is known by its number, from the run's beginning."""

    def __init__(
        self, failures: Failures, saving: Saving, plan: Goodput, chance: random.Random, marks: Sequence[float]
    ) -> None:
        self._failures, self._saving = failures, saving
        self._interval, self._pace, self._every = plan.interval, plan.interval + saving.pause, plan.every
        self._chance = chance
        self._nodes = _Parts(failures.repair, failures.spares, chance)
        self._pods = _Parts(failures.pod_repair, failures.spare_pods, chance)
        self._marks, self._end = marks, marks[-1]
        self._stored = [(0.0, 0)]  # when each snapshot is on storage, and its number; later ones are later
        self.progress: list[float] = []
        """Work done, and not yet undone, at each of the marks."""
        self.interruptions = 0
        self.waited = 0.0

    def run(self) -> None:
        """From the first step to the last mark."""
        now, snapshot = 0.0, 0
        while now < self._end:
            failed = now + self._next()
            self._pass(now, min(failed, self._end), snapshot)
            if failed >= self._end:
                return
            self._store(now, failed, snapshot)
            reached = self._copied(now, failed, snapshot)
            now, lost = self._recover(failed)
            snapshot = self._restored(failed, lost, reached)
            self._pass_idle(now, snapshot)

    def _next(self) -> float:
        return self._chance.expovariate(self._failures.rate) if self._failures.rate else math.inf

    def _pass(self, start: float, stop: float, snapshot: int) -> None:
        """The job runs: note its progress at the marks in between."""
        while len(self.progress) < len(self._marks) and self._marks[len(self.progress)] <= stop:
            paces, rest = divmod(self._marks[len(self.progress)] - start, self._pace)
            self.progress.append((snapshot + paces) * self._interval + min(rest, self._interval))

    def _pass_idle(self, stop: float, snapshot: int) -> None:
        """The job did not run until now."""
        while len(self.progress) < len(self._marks) and self._marks[len(self.progress)] <= stop:
            self.progress.append(snapshot * self._interval)

    def _copied(self, start: float, failed: float, snapshot: int) -> int:
        """The last snapshot that a peer has in its memory."""
        return snapshot + max(int((failed - start - self._saving.copy) // self._pace), 0)

    def _store(self, start: float, failed: float, snapshot: int) -> None:
        """Remember which snapshots of a stretch went to storage, and drop those that a later one has made useless."""
        last = snapshot + int((failed - start) // self._pace)
        last -= last % self._every
        pending = []
        while last > snapshot:
            ready = start + (last - snapshot) * self._pace + self._saving.drain
            pending.append((ready, last))
            if ready <= failed:
                self._stored = []
                break
            last -= self._every
        self._stored += reversed(pending)

    def _restored(self, failed: float, lost: float | None, copied: int) -> int:
        """The snapshot from which the job goes on. A peer's copy goes with the pod, and a host's with its node."""
        if self._saving.memory and lost is None:
            return copied
        return self._on_storage(failed if lost is None or not self._saving.memory else lost)

    def _on_storage(self, when: float) -> int:
        """The last snapshot on storage at a time; those on their way are given up, for the job begins before them."""
        ready = [entry for entry in self._stored if entry[0] <= when]
        self._stored = ready[-1:]
        return ready[-1][1]

    def _recover(self, failed: float) -> tuple[float, float | None]:
        """From an interruption to the next step: when that is, and when a pod was lost (the last), if one was."""
        now, lost = failed, None
        while True:
            self.interruptions += 1
            kind = self._chance.random() * self._failures.rate
            free = now
            if kind < self._failures.pods:
                lost, free = now, self._pods.lose(now)
            elif kind < self._failures.pods + self._failures.nodes:
                free = self._nodes.lose(now)
            self.waited += max(min(free, self._end) - now, 0.0) if now < self._end else 0.0
            needed = self._failures.restart if lost is None else self._failures.pod_restart
            until = self._next()
            if until >= needed or free >= self._end:
                return free + needed, lost
            now = free + until
