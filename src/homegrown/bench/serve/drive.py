"""Puts a server under a load."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from homegrown.bench.serve.load import Load, arrivals
from homegrown.bench.serve.outcome import Outcome
from homegrown.bench.serve.sessions import Session, Sessions
from homegrown.bench.serve.target import Dialogue, Target
from homegrown.bench.serve.words import Words

Told = Callable[[Outcome], None]
"""Told of every request that has ended."""


@dataclass
class Run:
    """One run of a load.

    Attributes:
        outcomes: in the order in which they ended.
        duration: seconds, from the first request to the end of the last.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    duration: float = 0.0


async def drive(target: Target, load: Load, words: Words, run: int = 0, told: Told = lambda outcome: None) -> Run:
    """Run a load once.

    First uses of shared prefixes come one by one before the clock starts: their outcomes are in the run, under a group
    of their own, but count in no other figure.

    Args:
        target: the server.
        load: what it gets.
        words: to make prompts of.
        run: of several runs of the load.
        told: called with every outcome.
    """
    sessions = Sessions(load, words, run)
    driver = _Driver(target, load, told)
    for session in sessions.firsts():
        await driver.session(session, driver.now)
    driver.restart()
    if load.long:
        await driver.beside(sessions.long(), sessions.endless())
    else:
        await driver.all(sessions.planned(), random.Random(f"{load.seed}/{run}/arrivals"))
    return Run(driver.outcomes, driver.now)


class _Driver:
    def __init__(self, target: Target, load: Load, told: Told) -> None:
        self.outcomes: list[Outcome] = []
        self._target, self._load, self._told = target, load, told
        self._began = time.perf_counter()

    @property
    def now(self) -> float:
        return time.perf_counter() - self._began

    def restart(self) -> None:
        """Begin to count the time."""
        self._began = time.perf_counter()

    async def all(self, sessions: list[Session], rng: random.Random) -> None:
        """Every session when it arrives, as far as the bound on concurrency lets it."""
        free = asyncio.Semaphore(self._load.concurrency or len(sessions))

        async def one(session: Session, due: float) -> None:
            try:
                await self.session(session, due)
            finally:
                free.release()

        async with asyncio.TaskGroup() as group:
            for session, due in zip(sessions, arrivals(self._load, rng), strict=False):
                await asyncio.sleep(due - self.now)
                await free.acquire()
                group.create_task(one(session, due))

    async def beside(self, long: Session, others: Iterator[Session]) -> None:
        """A closed loop of sessions; after a while a long one; it ends when that has been answered."""
        ended = asyncio.Event()

        async def loop() -> None:
            while not ended.is_set():
                await self.session(next(others), self.now)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._load.concurrency):
                group.create_task(loop())
            await asyncio.sleep(self._load.long_after)
            await self.session(long, self.now)
            ended.set()

    async def session(self, session: Session, due: float) -> None:
        """All turns, until one fails."""
        dialogue = Dialogue(session, self._target.asking.api)
        for number, turn in enumerate(session.turns):
            if number and self._load.pause:
                await asyncio.sleep(self._load.pause)
            outcome = Outcome(
                session=session.number, turn=number, group=session.group, wanted=turn.output,
                due=self.now if number else due,
            )  # fmt: skip
            await self._target.ask(outcome, dialogue.ask(turn, number), self._began)
            self.outcomes.append(outcome)
            self._told(outcome)
            if not outcome.ok:
                return
            dialogue.answered(outcome, number)


def requests(load: Load, words: Words, run: int = 0) -> int:
    """How many requests a run of a load has; for a load without end, the long one alone."""
    sessions = Sessions(load, words, run)
    planned: Iterable[Session] = [sessions.long()] if load.long else sessions.planned()
    return len(sessions.firsts()) + sum(len(session.turns) for session in planned)
