"""What the drill does to a run: each fault brings itself about from outside, with any worker program."""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homegrown.parallel import flight
from homegrown.parallel.verdict import leave_verdict
from homegrown.supervise.stage import Stage

Inject = Callable[[Stage, random.Random], float]
"""Brings a fault about, and returns when it did: wall clock, seconds."""


@dataclass(frozen=True)
class Disturbance:
    """A fault of the drill.

    Attributes:
        what: in words, for the table.
        inject: brings it about.
        workers: the fewest with which it makes sense; with `network`, an even number.
        flags: of the supervisor.
        seen: the event that says that it was noticed.
        network: what joins the two hosts on which it takes place; none means one host.
    """

    what: str
    inject: Inject
    workers: int = 1
    flags: tuple[str, ...] = ()
    seen: str = "fault"
    network: Literal["none", "relay", "namespaces"] = "none"


def moment(stage: Stage, rng: random.Random) -> int:
    """A step in the second quarter of the run."""
    return rng.randint(stage.steps // 4, stage.steps // 2)


def kill(stage: Stage, rng: random.Random) -> float:
    """SIGKILL a worker in the middle of a step."""
    victim = stage.worker(rng.randrange(stage.workers), moment(stage, rng))
    time.sleep(rng.uniform(0, 0.02))
    return _signal(victim, signal.SIGKILL)


def kill_saving(stage: Stage, rng: random.Random) -> float:
    """SIGKILL the first rank while a checkpoint is being written beside its place."""
    victim = stage.worker(0, moment(stage, rng))
    before = set(_unfinished(stage))
    stage.wait_for("a save began", lambda: set(_unfinished(stage)) - before)
    return _signal(victim, signal.SIGKILL)


def _unfinished(stage: Stage) -> Iterator[Path]:
    return (stage.run / "checkpoints").glob(".*.tmp")


def hang(stage: Stage, rng: random.Random) -> float:
    """SIGSTOP a worker."""
    return _signal(stage.worker(rng.randrange(stage.workers), moment(stage, rng)), signal.SIGSTOP)


def slow(stage: Stage, rng: random.Random) -> float:
    """Let a worker run a tenth of the time only, until that was noticed."""
    victim = stage.worker(stage.workers - 1, moment(stage, rng))
    began = time.time()
    with _braked(victim, stopped=0.09, running=0.01):
        stage.event("slow", began)
    return began


def corrupt(stage: Stage, rng: random.Random) -> float:
    """Leave the note of a worker that has found a rank to compute wrongly, and end that worker."""
    victim = stage.worker(rng.randrange(stage.workers), moment(stage, rng))
    leave_verdict(stage.run, victim.rank, victim.rank, "a drill says so", victim.attempt)
    return _signal(victim, signal.SIGKILL)


def full_disk(stage: Stage, rng: random.Random) -> float:
    """Let no file grow beyond 1 KiB: the next save fails as on a full disk."""
    step = moment(stage, rng)
    for rank in range(stage.workers):
        victim = stage.worker(rank, step)
        resource.prlimit(victim.pid, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    return time.time()


def supervisor(stage: Stage, rng: random.Random) -> float:
    """SIGKILL the supervisor, and start it again as a service manager would."""
    stage.worker(0, moment(stage, rng))
    began = time.time()
    stage.agents[0].kill()
    stage.relaunch(0)
    return began


def cut(stage: Stage, rng: random.Random) -> float:
    """Cut the second host off; join it again once its agent has ended its workers and the first has given it up.

    Where the workers still reach each other they go on training in the meantime: slowly, lest they come to the end.
    """
    first = stage.worker(0, moment(stage, rng))
    began = time.time()
    with _braked(first, stopped=0.2, running=0.01):
        stage.cut(1)
        stage.wait_for("the host that was cut off ended its workers", lambda: stage.events("fenced", agent=1))
        stage.event("host lost", began)
    stage.heal(1)
    return began


@contextmanager
def _braked(victim: flight.Record, stopped: float, running: float) -> Iterator[None]:
    """Stop and continue a worker in turn, for so many seconds each."""
    free = threading.Event()

    def brake() -> None:
        with suppress(ProcessLookupError):
            while not free.is_set():
                os.kill(victim.pid, signal.SIGSTOP)
                time.sleep(stopped)
                os.kill(victim.pid, signal.SIGCONT)
                time.sleep(running)

    thread = threading.Thread(target=brake)
    thread.start()
    try:
        yield
    finally:
        free.set()
        thread.join()


def _signal(victim: flight.Record, number: int) -> float:
    os.kill(victim.pid, number)
    return time.time()


FAULTS = {
    "kill": Disturbance("a worker is killed in a step (SIGKILL)", kill),
    "kill-save": Disturbance("a worker is killed while it saves (SIGKILL)", kill_saving),
    "hang": Disturbance("a worker hangs (SIGSTOP)", hang),
    "slow": Disturbance(
        "a worker is slow (runs a tenth of the time)", slow, workers=2, seen="slow",
        flags=("--spares", "1", "--slow-factor", "1.8", "--cordon-slow", "1.8", "--slow-steps", "3"),
    ),
    "corrupt": Disturbance("a worker is found to compute wrongly (verdict)", corrupt, flags=("--spares", "1")),
    "full-disk": Disturbance("no file can grow (full disk)", full_disk),
    "supervisor": Disturbance("the supervisor is killed (SIGKILL) and started again", supervisor, seen="start"),
    "controller": Disturbance("the controller cannot be reached from a host", cut, workers=2, network="relay"),
    "network": Disturbance("a host is cut off the network", cut, workers=2, network="namespaces"),
}  # fmt: skip
"""The faults of the drill, by the names that the command line takes."""
