"""A supervised run in processes of its own, to be disturbed from outside: the drill's and the tests' view of one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from homegrown.config import UserError
from homegrown.ledger import read_metrics
from homegrown.parallel import flight
from homegrown.supervise.journal import read_journal

T = TypeVar("T")

POLL = 0.001
"""Seconds between looks at what happens."""


class StageError(UserError):
    """A run that did not come to the point at which it was to be disturbed, or did not end."""


class Network(Protocol):
    """Joins hosts, and can be cut."""

    def cut(self, host: int) -> None:
        """Take a host off."""

    def heal(self, host: int) -> None:
        """Put it back."""


@dataclass(frozen=True)
class AgentCommand:
    """How an agent is started: its own flags, and what its command line begins with."""

    flags: Sequence[str] = ()
    prefix: Sequence[str] = ()


class Stage:
    """A run and the agents that supervise it. Use it as a context: at the end everything it started is ended.

    Attributes:
        run: the run directory.
        workers, steps: what the run is to have.
        agents: the processes of the agents, the leading one first.
    """

    def __init__(
        self, run: Path, *, workers: int, steps: int, flags: Sequence[str],
        agents: Sequence[AgentCommand] = (AgentCommand(),), network: Network | None = None, patience: float = 120.0,
    ) -> None:  # fmt: skip
        """Start it.

        Args:
            run: the run directory.
            workers, steps: of the run.
            flags: of `homegrown supervise`, for all agents.
            agents: each one's own.
            network: joins their hosts.
            patience: seconds to wait for anything.
        """
        self.run = run
        self.workers = workers
        self.steps = steps
        self._flags = list(flags)
        self._commands = agents
        self._network = network
        self._patience = patience
        run.mkdir(parents=True, exist_ok=True)
        self.agents = [self._launch(number) for number in range(len(agents))]

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exc: object) -> None:
        for agent in self.agents:
            if agent.poll() is None:
                agent.kill()  # its workers die with it
            agent.wait()

    def relaunch(self, number: int = 0) -> None:
        """Start an agent again, as a service manager does when one has ended."""
        self.agents[number].wait()
        self.agents[number] = self._launch(number)

    def cut(self, host: int) -> None:
        """Take the host of an agent off the network."""
        self._joined().cut(host)

    def heal(self, host: int) -> None:
        """Put it back."""
        self._joined().heal(host)

    def _joined(self) -> Network:
        if self._network is None:
            raise StageError(f"{self.run}: this run is on one host, there is no network to cut")
        return self._network

    def events(self, *kinds: str, agent: int = 0) -> list[dict[str, Any]]:
        """What an agent's journal says so far, of these kinds or of all, with wall-clock seconds as `stamp`."""
        name = f"supervisor-{host_name(agent)}.jsonl" if agent else "supervisor.jsonl"
        found = read_journal(self.run / name)
        return [
            event | {"stamp": datetime.fromisoformat(event["time"]).timestamp()}
            for event in found
            if not kinds or event["event"] in kinds
        ]

    def wait_for(self, what: str, look: Callable[[], T | None], poll: float = POLL) -> T:
        """The first true value that `look` returns.

        Raises:
            StageError: the leading agent ended before that, or it took too long.
        """
        deadline = time.monotonic() + self._patience
        while True:
            found = look()
            if found:
                return found
            ended = self.agents[0].poll() is not None
            if ended or time.monotonic() > deadline:
                how = "the supervisor ended" if ended else f"{self._patience:g} s went by"
                raise StageError(f"{self.run}: {how} before {what}; see {self.run}/supervisor.jsonl and logs/")
            time.sleep(poll)

    def worker(self, rank: int, step: int) -> flight.Record:
        """The record of a rank in the newest attempt, once it has begun a step."""
        path = flight.record_path(self.run, rank)

        def look() -> flight.Record | None:
            try:
                record = flight.read(path)
            except flight.FlightError:
                return None
            there = record.step >= step and record.attempt == self.events("start")[-1]["attempt"]
            return record if there else None

        return self.wait_for(f"rank {rank} came to step {step}", look)

    def event(self, kind: str, after: float = 0.0) -> dict[str, Any]:
        """The first event of a kind after a moment (wall clock), once it has happened."""
        return self.wait_for(
            f"{kind!r} was noted", lambda: next((e for e in self.events(kind) if e["stamp"] >= after), None), 0.05
        )

    def finish(self) -> int:
        """Wait for the end; the leading agent's exit status.

        Raises:
            StageError: it took too long.
        """
        try:
            return self.agents[0].wait(self._patience)
        except subprocess.TimeoutExpired:
            raise StageError(f"{self.run}: did not end within {self._patience:g} s; see {self.run}/logs") from None

    def _launch(self, number: int) -> subprocess.Popen[bytes]:
        own = self._commands[number]
        command = [*own.prefix, sys.executable, "-m", "homegrown", "supervise", "--name", host_name(number)]
        with (self.run / f"agent-{number}.log").open("ab") as log:
            return subprocess.Popen(
                [*command, *self._flags, *own.flags],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip


def host_name(agent: int) -> str:
    """By which an agent goes in the run."""
    return f"host{agent}"


def losses(run: Path) -> dict[int, tuple[float, float]]:
    """Loss and gradient norm of each step of a run, exactly as its metrics hold them."""
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"]
    return {line["step"]: (line["loss"], line["grad_norm"]) for line in lines}
