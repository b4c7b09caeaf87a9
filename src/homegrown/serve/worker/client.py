"""The asynchronous side of an engine's border: who waits for the outputs of which request."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable

from homegrown.serve.backend import State
from homegrown.serve.messages import Finish, Output, Request, Stats
from homegrown.serve.worker.protocol import Abort, Add, Order


class Client(ABC):
    """A `Backend` but for where the engine is. Everything here happens in one event loop."""

    def __init__(self) -> None:
        self._state: State = "starting"
        self._stats = Stats()
        self._waiting: dict[str, asyncio.Queue[Output]] = {}

    @property
    def state(self) -> State:
        """Whether requests are taken."""
        return self._state

    def stats(self) -> Stats:
        """The engine's latest figures."""
        return self._stats

    @abstractmethod
    async def start(self) -> None:
        """Begin; returns when requests are taken."""

    @abstractmethod
    async def close(self) -> None:
        """Abort what runs and end."""

    @abstractmethod
    def _send(self, order: Order) -> None:
        """Tell the engine, if there is one."""

    async def submit(self, request: Request) -> AsyncIterator[Output]:
        """Run a request; see `Backend.submit`."""
        refusal = self._refusal(request)
        if refusal:
            yield Output(id=request.id, finish="error", error=refusal)
            return
        outputs = self._waiting[request.id] = asyncio.Queue()
        ended = False
        try:
            self._send(Add(request))
            while not ended:
                output = await outputs.get()
                ended = output.finish is not None
                yield output
        finally:
            if self._waiting.pop(request.id, None) is not None and not ended:
                self._send(Abort(request.id))

    def _refusal(self, request: Request) -> str:
        if self._state != "ready":
            return "the engine is not running at the moment: try again in a while"
        if request.id in self._waiting:
            return f"a request with the id {request.id!r} is running already: give each its own"
        return ""

    def _deliver(self, outputs: Iterable[Output]) -> None:
        """Hand outputs to those who wait for them; those who left get none."""
        for output in outputs:
            waiting = self._waiting.get(output.id)
            if waiting is not None:
                waiting.put_nowait(output)

    def _end_all(self, finish: Finish, error: str = "") -> None:
        """No more outputs will come."""
        self._deliver([Output(id=name, finish=finish, error=error) for name in self._waiting])
