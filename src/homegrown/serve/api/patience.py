"""Waiting for the first event of an answer, but not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from homegrown.serve.events import Event


async def patient(events: AsyncGenerator[Event, None], seconds: float) -> AsyncGenerator[Event | None, None]:
    """`events`, with `None` before the first where that takes longer than `seconds`. Closes `events`."""
    async with aclosing(events):
        first = asyncio.ensure_future(anext(events, None))
        try:
            done, _ = await asyncio.wait({first}, timeout=seconds)
            if not done:
                yield None
            event = await first
        finally:
            first.cancel()
            await asyncio.wait({first})
        while event is not None:
            yield event
            event = await anext(events, None)
