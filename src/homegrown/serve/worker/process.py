"""An engine in a child process: loaded there, watched, started anew when it dies."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from homegrown.config import UserError
from homegrown.serve.messages import Stats
from homegrown.serve.worker.client import Client
from homegrown.serve.worker.protocol import (
    LENGTH,
    Close,
    Failed,
    Figures,
    Launch,
    Loading,
    Order,
    Outputs,
    ProtocolError,
    Ready,
    Report,
    frame,
    report,
)

_log = logging.getLogger(__name__)

COUNTERS = (
    "steps", "prefill_tokens", "decode_tokens", "cached_tokens", "prompt_tokens", "drafted", "accepted", "preempted",
    "finished", "transferred", "lost",
)  # fmt: skip
"""Figures that only grow: those of dead children stay."""
LOST = "the engine ended unexpectedly, and the request with it: try again in a while"


class WorkerError(UserError):
    """The engine's process could not begin; the message says why."""


class ProcessBackend(Client):
    """Implements `Backend` around a child process.

    The child leads a session of its own, so that a Ctrl-C in the terminal ends it only through this process, after the
    requests in it. It ends when this process does. What it writes to stderr goes to this process's.

    Args:
        launch: what to load and how to run it.
        progress: is told how far loading is.
        backoff: seconds before a dead child is started anew; twice as long after each further death in a row.
        longest_backoff: of these, the most.
        patience: seconds that a child is given to end by itself.
        silence: seconds after which a child that has requests and says nothing hangs: it is killed, and started anew.
            A busy one reports after every step.

    Attributes:
        ready: what the child said when it was ready; `None` before.
        reason: why it died last; empty if it never did.
        starts: how often a child was started.
    """

    def __init__(
        self,
        launch: Launch,
        progress: Callable[[Loading], None] = lambda loading: None,
        *,
        backoff: float = 1.0,
        longest_backoff: float = 60.0,
        patience: float = 10.0,
        silence: float = 300.0,
    ) -> None:
        super().__init__()
        self.ready: Ready | None = None
        self.reason = ""
        self.starts = 0
        self._launch, self._progress = launch, progress
        self._past = Stats()
        self._backoff, self._longest_backoff, self._patience = backoff, longest_backoff, patience
        self._silence, self._heard = silence, 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._began: asyncio.Future[None] | None = None

    @property
    def pid(self) -> int:
        """Of the child; 0 without one."""
        return 0 if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the child; returns when its model is loaded.

        Raises:
            WorkerError: it ended before that.
        """
        self._began = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep())
        try:
            await self._began
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Abort what runs, and end the child: kindly, then by force."""
        kindly = self._state == "ready"
        self._state = "dead"
        self._end_all("abort")
        self._send(Close())
        if self._keeper is not None:
            await asyncio.wait([self._keeper], timeout=self._patience if kindly else 0)
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._keeper = None
        if self._began is not None and not self._began.done():
            self._began.set_exception(WorkerError("the engine was closed before it was ready"))

    def _send(self, order: Order) -> None:
        if len(self._waiting) == 1:
            self._heard = time.monotonic()  # a child that had nothing to do had nothing to say
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frame(order))

    async def _keep(self) -> None:
        """One child after the other, until told to close."""
        pause = self._backoff
        while True:
            self._state, self.ready = "starting", None
            began = time.monotonic()
            await self._live()
            closing = self._state == "dead"
            self._state = "dead"
            self._past = self._stats = _with_past(Stats(), self._stats)
            self._end_all("error", LOST)
            if closing:
                return
            if self._began is not None and not self._began.done():
                self._began.set_exception(WorkerError(self.reason))
                return
            if time.monotonic() - began > 2 * self._longest_backoff:
                pause = self._backoff
            _log.warning("the engine died: %s; it is started anew in %g s", self.reason, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._longest_backoff)

    async def _live(self) -> None:
        """A child from its beginning to its end."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = _spawn(theirs)
        self.starts += 1
        self._heard = time.monotonic()
        failed = ""
        watching = asyncio.create_task(self._watch(self._process))
        try:
            reader, self._writer = await asyncio.open_connection(sock=ours)
            self._send(self._launch)
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while not failed:
                    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                    failed = self._receive(report(await reader.readexactly(length)))
        except ProtocolError as error:
            failed = str(error)
        finally:
            watching.cancel()
            if self._writer is not None:
                self._writer.transport.abort()
            self._writer = None
            status = await _end(self._process, self._patience)
            self._process = None
        hung = watching.done() and not watching.cancelled()
        silent = f"it had requests and said nothing for {self._silence:g} s, so it was killed"
        self.reason = failed or (silent if hung else _obituary(status))

    async def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a child that hangs. Returns only then."""
        while not (self._state == "ready" and self._waiting and time.monotonic() - self._heard > self._silence):
            await asyncio.sleep(self._silence / 10)
        process.kill()

    def _receive(self, message: Report) -> str:
        """Take a report; why the child ends, if that is what it says."""
        self._heard = time.monotonic()
        if isinstance(message, Outputs):
            self._deliver(message.outputs)
        elif isinstance(message, Figures):
            self._stats = _with_past(message.stats, self._past)
        elif isinstance(message, Loading):
            self._progress(message)
        elif isinstance(message, Ready):
            self.ready = message
            # A child that takes the place of a dead one need not find out again what is known.
            self._launch = msgspec.structs.replace(self._launch, weights_check="off")
            if self._state == "starting":
                self._state = "ready"
            if self._began is not None and not self._began.done():
                self._began.set_result(None)
        elif isinstance(message, Failed):
            return message.reason
        return ""


def _with_past(now: Stats, past: Stats) -> Stats:
    """Figures of a child, and what those before it have counted."""
    return msgspec.structs.replace(now, **{name: getattr(now, name) + getattr(past, name) for name in COUNTERS})


def _spawn(sock: socket.socket) -> subprocess.Popen[bytes]:
    number = sock.fileno()
    return subprocess.Popen(
        [sys.executable, "-m", "homegrown.serve.worker", str(number)],
        pass_fds=[number],
        stdin=subprocess.DEVNULL,
        stdout=2,
        start_new_session=True,
    )


async def _end(process: subprocess.Popen[bytes], patience: float) -> int:
    """See a child off whose connection is closed; kill it if it lingers, or if nobody waits. Its exit status."""
    try:
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, patience)
    finally:
        process.kill()
        process.wait()
    return process.returncode


def _obituary(status: int) -> str:
    if status >= 0:
        return f"it ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"it was ended by {name}" + (", perhaps because memory ran out" if -status == signal.SIGKILL else "")
