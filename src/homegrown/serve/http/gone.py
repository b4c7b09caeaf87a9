"""Noticing at once that a client has left, whatever is being waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

T = TypeVar("T")


async def disconnected(receive: Receive) -> None:
    """Return when the client has left. The request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, but cancel it as soon as the client leaves. The request's body must have been read.

    Raises:
        starlette.requests.ClientDisconnect: it left.
    """
    return await race(work, request.receive)


async def race(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The same for anything that has ASGI's `receive`."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        await _end(working)
        await _end(leaving)


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has cleaned up; what it raises then has been told or interests nobody."""
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()
