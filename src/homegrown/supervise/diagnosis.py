"""Who hangs and who is slow, read from digests of flight records. Pure functions of what was seen."""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from homegrown.parallel.flightfile import ranks_in, ranks_text
from homegrown.supervise.messages import Digest

STEP, STOPPED = "step", "T"


@dataclass(frozen=True)
class Hang:
    """Ranks that will not go on by themselves.

    Attributes:
        op, group, sequence: the collective in which they wait; empty and 0 when nobody waits.
        waiting: the ranks inside it.
        missing: its members that have not come to it.
        culprits: those of them that wait for nobody themselves.
        text: all this as a sentence.
    """

    op: str
    group: str
    sequence: int
    waiting: tuple[int, ...]
    missing: tuple[int, ...]
    culprits: tuple[int, ...]
    text: str


def find_hang(digests: Mapping[int, Digest], hang_after: float, stall_after: float = math.inf) -> Hang | None:
    """The collective in which ranks have waited for `hang_after` seconds while none of its members moved at all.

    A member that is slow moves, and so does one that waits for a slow one: neither hangs. A member that does something
    else than a step, such as loading or writing a report, may take until `stall_after`, unless it has been stopped.
    Where several collectives hang, the one that misses a rank which itself waits for nobody is the cause of the others.
    """
    calls: defaultdict[tuple[str, str, str, int], list[int]] = defaultdict(list)
    for rank, digest in digests.items():
        if digest.waiting is not None and digest.waiting.seconds >= hang_after:
            waiting = digest.waiting
            calls[waiting.group, waiting.ranks, waiting.op, waiting.sequence].append(rank)
    hangs = []
    for (group, ranks, op, sequence), came in calls.items():
        arrived = set(came)
        members = [digests[rank] for rank in _members(ranks) if rank in digests]
        if all(member.age >= _limit(member, hang_after, stall_after) for member in members):
            absent = [d.rank for d in members if d.rank not in arrived and d.entered.get(group, 0) < sequence]
            free = [rank for rank in absent if digests[rank].waiting is None]
            hangs.append(_hang(digests, op, group, sequence, sorted(arrived), absent, free, hang_after))
    return min(hangs, key=lambda hang: (not hang.culprits, hang.culprits, hang.group, hang.waiting), default=None)


def _limit(digest: Digest, hang_after: float, stall_after: float) -> float:
    """Seconds that a rank may stand still while others wait for it."""
    at_once = digest.waiting is not None or digest.phase == STEP or digest.state == STOPPED
    return hang_after if at_once else max(hang_after, stall_after)


def find_stall(digests: Mapping[int, Digest], stall_after: float) -> Hang | None:
    """Everybody has stood still for `stall_after` seconds, though no flight record shows who waits for whom."""
    if not digests or any(digest.age < stall_after for digest in digests.values()):
        return None
    stopped = tuple(sorted(rank for rank, digest in digests.items() if digest.state == STOPPED))
    text = f"no rank has moved for {stall_after:g} s, and none is known to wait for another"
    return Hang("", "", 0, (), (), stopped, text + _stopped(stopped))


def _hang(
    digests: Mapping[int, Digest], op: str, group: str, sequence: int,
    arrived: list[int], absent: list[int], culprits: list[int], hang_after: float,
) -> Hang:  # fmt: skip
    who = f"{_ranks(arrived)} waited more than {hang_after:g} s in {op} number {sequence} of group {group!r}; "
    why = f"{_ranks(absent)} did not come to it" if absent else "all came to it, so the transport is stuck"
    stopped = [rank for rank in culprits if digests[rank].state == STOPPED]
    return Hang(op, group, sequence, tuple(arrived), tuple(absent), tuple(culprits), who + why + _stopped(stopped))


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {ranks_text(ranks, 200)}"


def _stopped(ranks: Sequence[int]) -> str:
    return f"; stopped by a signal: {_ranks(ranks)}" if ranks else ""


@lru_cache(maxsize=4096)
def _members(text: str) -> tuple[int, ...]:
    return tuple(ranks_in(text))


@dataclass(frozen=True)
class Slow:
    """A rank that was slower than the others, step after step: its worst-case factor over those steps is `factor`."""

    rank: int
    factor: float
    step: int


class Ranking:
    """Compares the time of each step outside collectives over all ranks.

    A rank is slow if it takes `factor` times the median of the others in `steps` steps in a row. It is named once, and
    again only after it was as fast as the others in between.
    """

    noise = 0.002
    """Seconds a step that count for nothing."""

    def __init__(self, world: int, factor: float, steps: int) -> None:
        self.world, self.factor, self.steps = world, factor, steps
        self._open: dict[int, dict[int, float]] = {}
        self._row: defaultdict[int, list[float]] = defaultdict(list)

    def add(self, digest: Digest) -> list[Slow]:
        """Note a rank's new step times; the ranks that became known as slow by it."""
        found = []
        for step, seconds, waited in digest.times:
            times = self._open.setdefault(step, {})
            times[digest.rank] = max(0.0, seconds - waited)
            if len(times) == self.world:
                found += self._complete(step, self._open.pop(step))
        for step in sorted(self._open)[:-64]:  # a rank's times were missed: the step never becomes complete
            del self._open[step]
        return found

    def _complete(self, step: int, times: dict[int, float]) -> list[Slow]:
        found = []
        ordered = sorted(times.values())
        for rank, own in times.items():
            others = _median_without(ordered, own)
            ratio = own / others if others > 0 else float("inf")
            row = self._row[rank]
            if ratio < self.factor or own - others < self.noise:
                row.clear()
                continue
            row.append(ratio)
            if len(row) == self.steps:
                found.append(Slow(rank, min(row), step))
        return found


def _median_without(ordered: list[float], own: float) -> float:
    """Median of sorted values but for one that equals `own`."""
    rest = len(ordered) - 1
    if not rest:
        return own
    gap = bisect.bisect_left(ordered, own)
    low, high = (ordered[place + (place >= gap)] for place in ((rest - 1) // 2, rest // 2))
    return (low + high) / 2
