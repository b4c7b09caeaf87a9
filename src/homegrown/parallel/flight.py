"""The flight record: what a worker is doing at this moment, in a small file that others may read at any time.

A worker opens its record once; collectives then note when they wait, and the loop notes its steps. From the records of
all ranks a watcher sees who hangs, in which collective, and who has not come to it. Without an open record every call
returns at once. Imports no torch.

A step's clock runs from `step` to the next `step` or `phase`: a rank that saves or evaluates between two steps is not
slow. Where the device works asynchronously, the clock and the collectives are those of the host.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from homegrown.parallel.flightfile import (
    MAX_GROUPS,
    Collective,
    FlightError,
    FlightFile,
    Record,
    StepTime,
    read_file,
)

__all__ = [
    "ATTEMPT",
    "WATCH",
    "Collective",
    "FlightError",
    "Record",
    "StepTime",
    "close",
    "enter",
    "leave",
    "open",
    "phase",
    "read",
    "record_path",
    "stacks_path",
    "step",
    "waited",
]

ATTEMPT = "HOMEGROWN_ATTEMPT"
"""Environment variable: the number of the incarnation of the job that a supervisor gave this worker."""
WATCH = "HOMEGROWN_WATCH"
"""Environment variable: directory of the records on this host; RUN/watch without it."""


class _Recorder:
    """This process's record, in the course of being written."""

    def __init__(self, path: Path, rank: int) -> None:
        self.path = path
        self.lock = threading.RLock()  # reentrant: a signal handler may note something while its thread holds it
        self.version = 0
        self.first, self.number, self.doing = -1, -1, b"start"
        self.groups: dict[str, tuple[int, Sequence[int]]] = {}
        self.entered = [0] * MAX_GROUPS
        self.inside: list[tuple[int, float, tuple[int, int, int, float, bytes]]] = []  # thread, start, collective
        self.begun: float | None = None
        self.waited = 0.0
        self.file = FlightFile(
            path, rank=rank, pid=os.getpid(), attempt=int(os.environ.get(ATTEMPT, "0")),
            opened=time.time(), host=socket.gethostname(),
        )  # fmt: skip
        self.publish()
        self.stacks = stacks_path(path).open("w", encoding="utf-8")
        faulthandler.register(signal.SIGUSR1, file=self.stacks, all_threads=True)

    def publish(self) -> None:
        self.version += 1
        collective = self.inside[-1][2] if self.inside else ()
        self.file.put_state(
            self.version, time.time(), self.first, self.number, len(self.groups), self.doing, *collective
        )

    def enter(self, op: str, name: str, ranks: Sequence[int], nbytes: int) -> None:
        with self.lock:
            index, members = self.groups.get(name, (len(self.groups), None))
            if members is not ranks:
                self._learn(index, name, ranks)
            self.entered[index] += 1
            self.file.put_entered(index, self.entered[index])
            collective = (index, self.entered[index], nbytes, time.time(), op.encode()[:24])
            self.inside.append((threading.get_ident(), time.perf_counter(), collective))
            self.publish()

    def leave(self) -> None:
        with self.lock:
            me = threading.get_ident()
            mine = [place for place, (thread, _, _) in enumerate(self.inside) if thread == me]
            if not mine:
                raise FlightError(f"{self.path}: a collective is left that was not entered by this thread")
            _, started, _ = self.inside.pop(mine[-1])
            if len(mine) == 1:  # an inner one is part of the outer one's time
                self.waited += time.perf_counter() - started
            self.publish()

    def step(self, number: int) -> None:
        with self.lock:
            self._stop_clock()
            self.first = number if self.first < 0 else self.first
            self.number, self.doing = number, b"step"
            self.begun, self.waited = time.perf_counter(), 0.0
            self.publish()

    def phase(self, name: str) -> None:
        with self.lock:
            self._stop_clock()
            self.doing = name.encode()[:24]
            self.publish()

    def close(self) -> None:
        faulthandler.unregister(signal.SIGUSR1)
        self.stacks.close()
        self.file.close()

    def _learn(self, index: int, name: str, ranks: Sequence[int]) -> None:
        if index == MAX_GROUPS:
            raise FlightError(f"{self.path}: group {name!r} is one too many; a flight record holds {MAX_GROUPS}")
        self.file.put_group(index, name, ranks)
        self.groups[name] = (index, ranks)

    def _stop_clock(self) -> None:
        if self.begun is not None:
            self.file.put_time(StepTime(self.number, time.perf_counter() - self.begun, self.waited))
            self.begun = None


_recorder: _Recorder | None = None


def record_path(run: Path, rank: int) -> Path:
    """Where the record of a rank belongs: in the directory that a supervisor named, else in the run's."""
    return Path(os.environ.get(WATCH) or run / "watch") / f"rank-{rank:05d}"


def stacks_path(record: Path) -> Path:
    """Where a worker writes the stacks of its threads when it gets SIGUSR1."""
    return record.with_suffix(".stacks")


def open(path: Path, rank: int) -> None:  # noqa: A001 - it is called as `flight.open`
    """Begin this process's record in a new file at `path`; from now on SIGUSR1 writes the stacks of all threads.

    Raises:
        FlightError: this process has a record open already.
        OSError: the file cannot be written; its space is taken at once, so that a full disk shows here.
    """
    global _recorder
    if _recorder is not None:
        raise FlightError(f"{path}: this process keeps a flight record already, {_recorder.path}")
    _recorder = _Recorder(path, rank)


def close() -> None:
    """End the record, if one is open; its file stays as it is."""
    global _recorder
    if _recorder is not None:
        _recorder.close()
        _recorder = None


def enter(op: str, group_name: str, ranks: Sequence[int], nbytes: int) -> None:
    """This thread begins to wait in a collective.

    Args:
        op: what is done, such as `all_to_all`; 24 bytes are kept.
        group_name: name of the group, of which this process has one by that name; 32 bytes are kept.
        ranks: its members, ascending. The same object each time makes this quick.
        nbytes: bytes this rank sends.

    Raises:
        FlightError: the process uses more groups than a record has room for.
    """
    if _recorder is not None:
        _recorder.enter(op, group_name, ranks, nbytes)


def leave() -> None:
    """The collective that this thread entered last is over, or has failed.

    Raises:
        FlightError: this thread is in none.
    """
    if _recorder is not None:
        _recorder.leave()


def step(number: int) -> None:
    """Step `number` begins, in the phase `step`; the one before ends if its clock still runs."""
    if _recorder is not None:
        _recorder.step(number)


def phase(name: str) -> None:
    """Something other than a step begins, such as `save`; 24 bytes are kept. It ends the step."""
    if _recorder is not None:
        _recorder.phase(name)


def waited() -> float:
    """Seconds spent inside collectives since the last `step` (exposed communication); 0 without a record."""
    return 0.0 if _recorder is None else _recorder.waited


def read(path: Path) -> Record:
    """The record at `path` as it is now, whatever its process does; it may have ended.

    Raises:
        FlightError: no such file, or no flight record.
    """
    return read_file(path)
