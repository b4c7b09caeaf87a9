"""Outputs of several requests, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeAlias, cast

from homegrown.serve.backend import Backend
from homegrown.serve.messages import Output, Request

Step: TypeAlias = tuple[int, Output | None]
"""The number of a request and what came of it; None where its outputs ended."""


class Merged:
    """The outputs of requests that run side by side; each can be given up by itself.

    Args:
        backend: runs them.
        requests: numbered in this order.
    """

    def __init__(self, backend: Backend, requests: Sequence[Request]) -> None:
        self._backend, self._requests = backend, requests
        self._arrived: asyncio.Queue[Step] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    async def steps(self) -> AsyncGenerator[Step, None]:
        """All outputs of all requests, until each has ended or was given up. Closing it gives up the rest.

        Raises:
            Exception: whatever the backend raised.
        """
        self._tasks = [self._started(number) for number in range(len(self._requests))]
        try:
            running = len(self._tasks)
            while running:
                number, output = await self._arrived.get()
                if output is None:
                    running -= 1
                    _raise_fault(self._tasks[number])
                yield number, output
        finally:
            for number in range(len(self._tasks)):
                await self.give_up(number)

    async def give_up(self, number: int) -> None:
        """Abort a request, if it still runs; returns when the backend has been told."""
        task = self._tasks[number]
        task.cancel()
        await asyncio.wait([task])

    def _started(self, number: int) -> asyncio.Task[None]:
        task = asyncio.create_task(self._pump(number))
        # Not in the task itself: one that is cancelled before its first step does nothing at all.
        task.add_done_callback(lambda done: self._arrived.put_nowait((number, None)))
        return task

    async def _pump(self, number: int) -> None:
        outputs = self._backend.submit(self._requests[number])
        async with aclosing(cast("AsyncGenerator[Output, None]", outputs)):
            async for output in outputs:
                self._arrived.put_nowait((number, output))


def _raise_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (fault := task.exception()) is not None:
        raise fault
