"""What the APIs need of an engine, wherever it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal, Protocol

from homegrown.serve.messages import Output, Request, Stats

State = Literal["starting", "ready", "dead"]


class Backend(Protocol):
    """An engine behind an asynchronous border: a thread, a child process, or something scripted in tests."""

    @property
    def state(self) -> State:
        """Whether requests are taken. A dead engine is started anew, so the state may change back."""

    def stats(self) -> Stats:
        """The engine's latest figures; costs nothing."""

    def submit(self, request: Request) -> AsyncIterator[Output]:
        """Run a request. The iterator ends behind an output with `finish`; it never raises for what goes wrong inside
        the engine: that is an output with `finish="error"`. Closing it early aborts the request and frees its pages."""

    async def start(self) -> None:
        """Load the model and begin; returns when ready."""

    async def close(self) -> None:
        """Abort what runs and end."""
