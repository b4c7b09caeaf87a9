"""A worker process: started as torchrun would, seen through its flight record, and killed with its children."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from homegrown.parallel import flight
from homegrown.parallel.flightfile import ranks_text
from homegrown.supervise.messages import Digest, Seat, Start, Waiting

QUIET = 1.0
"""Seconds without movement after which a digest says in which collective a rank waits."""
TAIL = 4096
"""Bytes at the end of a log that are looked at."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None


class Worker:
    """A process of an attempt.

    Attributes:
        seat: its rank and slot.
        attempt: the attempt it belongs to.
        record: its flight record.
        log: where its output goes; its own part begins at byte `logged`.
        process: the process, leader of its own session.
    """

    def __init__(self, command: Sequence[str], start: Start, seat: Seat, run: Path, watch: Path) -> None:
        """Start it.

        Raises:
            OSError: the program or the log cannot be opened.
        """
        self.seat = seat
        self.attempt = start.attempt
        self.record = watch / f"rank-{seat.rank:05d}"
        self.log = run / "logs" / f"rank-{seat.rank}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            log.write(f"== attempt {start.attempt}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
            log.flush()
            self.logged = log.tell()
            self.process = subprocess.Popen(
                list(command), env=environment(start, seat, watch, os.environ), stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_die_with_parent,
            )  # fmt: skip
        self._version = 0
        self._moved = time.monotonic()
        self._timed = -1

    def digest(self) -> Digest:
        """What it is doing. Step times are told once."""
        rank, state, record = self.seat.rank, process_state(self.process.pid), self.flight()
        if record is None:
            return Digest(rank, age=time.monotonic() - self._moved, state=state)
        if record.version != self._version:
            self._version, self._moved = record.version, time.monotonic()
        age = time.monotonic() - self._moved
        times = [(t.step, t.seconds, t.waited) for t in record.times if t.step > self._timed]
        self._timed = max([self._timed, *(step for step, _, _ in times)])
        return Digest(
            rank, age=age, state=state, phase=record.phase, first=record.first, step=record.step,
            waiting=_waiting(record, age) if age > QUIET else None, entered=record.entered if age > QUIET else {},
            times=times,
        )  # fmt: skip

    def flight(self) -> flight.Record | None:
        """Its flight record; None as long as it has opened none."""
        try:
            record = flight.read(self.record)
        except (flight.FlightError, OSError):
            return None
        return record if record.attempt == self.attempt else None

    def last_words(self) -> list[str]:
        """The last lines of its log, without empty ones."""
        return tail(self.log, self.logged)

    def send(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it and what it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def environment(start: Start, seat: Seat, watch: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """A worker's environment: the variables that torchrun sets, and what names the attempt and its records."""
    variables = dict(inherited) | {
        "RANK": str(seat.rank),
        "WORLD_SIZE": str(start.world),
        "LOCAL_RANK": str(seat.slot),
        "LOCAL_WORLD_SIZE": str(len(start.seats)),
        "GROUP_RANK": str(start.node),
        "MASTER_ADDR": start.address,
        "MASTER_PORT": str(start.port),
        "PYTHONFAULTHANDLER": "1",
        flight.ATTEMPT: str(start.attempt),
        flight.WATCH: str(watch),
    }
    if len(start.seats) > 1:
        variables.setdefault("OMP_NUM_THREADS", "1")
    return variables


def tail(path: Path, start: int = 0) -> list[str]:
    """The last lines of a file, from byte `start` on and without empty ones; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def process_state(pid: int) -> str:
    """The kernel's letter for a process: R, S, D, T (stopped by a signal), Z; X if it is gone, ? if nobody knows."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "X" if Path("/proc/self/stat").exists() else "?"
    return stat.rpartition(")")[2].split()[0]


def _waiting(record: flight.Record, age: float) -> Waiting | None:
    inside = record.collective
    if inside is None:
        return None
    return Waiting(inside.op, inside.group, ranks_text(record.groups[inside.group]), inside.sequence, age)


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
