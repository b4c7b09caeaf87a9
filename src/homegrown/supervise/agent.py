"""The agent of a host: starts workers and kills them as the controller says, and tells it what it sees.

It decides one thing alone: when it cannot reach the controller for the length of its lease, it ends its workers, since
by then others may be training in their place.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from homegrown.parallel.verdict import verdicts
from homegrown.supervise import messages as say
from homegrown.supervise.evidence import collect
from homegrown.supervise.journal import Journal
from homegrown.supervise.link import Link
from homegrown.supervise.worker import Worker, tail

POLL = 0.05
"""Seconds between looks at the workers."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A host and what runs on it.

    Attributes:
        name: of the host, unique in the run.
        slots: workers there is room for.
        command: the worker's program and arguments.
        selftest: the program that a cordoned slot must pass, as a world of one whose LOCAL_RANK is the slot; it
            exits with 0.
        run: the run directory.
        watch: directory of the flight records, on a local disk.
        beat: seconds between reports to the controller.
        lease: seconds without contact after which the workers are ended; infinite where the controller is in this very
            process.
        selftest_limit: seconds a self-test may take.
    """

    name: str
    slots: int
    command: Sequence[str]
    selftest: Sequence[str]
    run: Path
    watch: Path
    beat: float = 0.5
    lease: float = float("inf")
    selftest_limit: float = 300.0


class Agent:
    """Runs until the controller says that all is over, or until it is told to leave."""

    def __init__(self, site: Site, host: str, port: int, journal: Journal, token: str = "") -> None:
        self.site = site
        self.journal = journal
        self.workers: list[Worker] = []
        self.attempt = 0
        self._link = Link(host, port, self._hello)
        self._token = token
        self._ended: dict[int, say.Exited] = {}
        self._stopping = False
        self._tests: dict[int, tuple[subprocess.Popen[bytes], float]] = {}
        self._last_beat = 0.0
        self._finish: say.Finish | None = None
        self._leaving = False

    async def run(self) -> say.Finish:
        """Work; how the controller says that it ended."""
        try:
            while self._finish is None:
                for order in await self._link.orders(POLL):
                    await self._obey(order)
                self._reap()
                self._beat()
                self._check_lease()
            return self._finish
        finally:
            self._kill()
            for test, _ in self._tests.values():
                test.kill()
            await self._link.close()

    def leave(self) -> None:
        """Ask to be left out of the run; a second time, go at once."""
        if self._leaving:
            self._finish = say.Finish(1, "left at once")
        self._leaving = True
        self._link.send(say.Leaving())

    # Orders

    async def _obey(self, order: say.Order) -> None:
        match order:
            case say.Start():
                self._start(order)
            case say.Stop():
                await self._stop(order)
            case say.Forward():
                for worker in self.workers:
                    worker.send(order.signal)
            case say.Test():
                self._test(order.slot)
            case say.Finish():
                self._finish = order
            case say.Welcome():
                self._repeat()

    def _repeat(self) -> None:
        """Say again what may have been lost with the last connection."""
        for exited in self._ended.values() if self.attempt else ():
            self._link.send(exited)
        if self._leaving:
            self._link.send(say.Leaving())

    def _start(self, start: say.Start) -> None:
        self._kill()
        self.attempt, self._stopping, self._ended = start.attempt, False, {}
        for seat in start.seats:
            try:
                self.workers.append(Worker(self.site.command, start, seat, self.site.run, self.site.watch))
            except OSError as error:
                said = f"cannot be started: {error.filename or self.site.command[0]}: {error.strerror}"
                self._tell(say.Exited(self.attempt, seat.rank, 1, say.Digest(seat.rank, state="X"), said))

    async def _stop(self, stop: say.Stop) -> None:
        if stop.attempt != self.attempt:  # nothing of it is left here
            self._link.send(say.Idle(stop.attempt, free_port()))
            return
        if stop.fault:
            try:
                await collect(self.workers, self.site.run / "faults" / str(stop.fault), stop.stacks)
            except OSError as error:
                self.journal.write(
                    "evidence", f"fault {stop.fault} leaves no files: {error.filename}: {error.strerror}"
                )
        for worker in self.workers:
            worker.kill()
        self._stopping = True

    def _test(self, slot: int) -> None:
        # A world of one at that slot: it computes on the device that the slot's worker would have.
        alone = {
            "RANK": "0",
            "WORLD_SIZE": "1",
            "LOCAL_RANK": str(slot),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "0",
        }
        environment = {**os.environ, **alone}
        try:
            with self._test_log(slot).open("wb") as log:
                test = subprocess.Popen(
                    list(self.site.selftest), env=environment, stdin=subprocess.DEVNULL, stdout=log,
                    stderr=subprocess.STDOUT,
                )  # fmt: skip
        except OSError as error:
            self._link.send(say.Tested(slot, False, f"{error.filename}: {error.strerror}"))
            return
        self._tests[slot] = (test, time.monotonic() + self.site.selftest_limit)

    def _test_log(self, slot: int) -> Path:
        return self.site.run / "logs" / f"selftest-{self.site.name}-{slot}.log"

    # What happens

    def _reap(self) -> None:
        for worker in self.workers:
            code, rank = worker.process.poll(), worker.seat.rank
            if code is None or rank in self._ended:
                continue
            worker.kill()  # whatever it started
            blames = [say.Blame(one.rank, one.what) for one in verdicts(self.site.run, self.attempt)]
            said = (worker.last_words() or [""])[-1][:300]
            self._tell(say.Exited(self.attempt, rank, code, worker.digest(), said, blames))
        if self._stopping and all(worker.seat.rank in self._ended for worker in self.workers):
            self._idle(self.attempt)
        for slot, (test, limit) in list(self._tests.items()):
            if test.poll() is None and time.monotonic() > limit:
                test.kill()
            elif test.poll() is not None:
                said = (tail(self._test_log(slot)) or [""])[-1][:300]
                self._link.send(say.Tested(slot, test.returncode == 0, said))
                del self._tests[slot]

    def _tell(self, exited: say.Exited) -> None:
        self._ended[exited.rank] = exited
        self._link.send(exited)

    def _idle(self, attempt: int) -> None:
        self.workers, self.attempt, self._stopping = [], 0, False
        self._link.send(say.Idle(attempt, free_port()))

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._last_beat >= self.site.beat:
            self._last_beat = now
            living = [worker for worker in self.workers if worker.seat.rank not in self._ended]
            self._link.send(say.Beat(self.attempt, [worker.digest() for worker in living]))

    def _check_lease(self) -> None:
        silent = time.monotonic() - self._link.confirmed
        if self.workers and silent > self.site.lease:
            self._kill()
            self.journal.write(
                "fenced", f"{self.site.name} has not reached the controller for {silent:.1f} s and ended its workers"
            )

    def _hello(self, address: str) -> say.Hello:
        site = self.site
        return say.Hello(site.name, site.slots, address, free_port(), self.attempt, self._token)

    def _kill(self) -> None:
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.process.wait()
        self.workers, self.attempt, self._stopping = [], 0, False


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
