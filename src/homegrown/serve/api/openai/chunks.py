"""Events to chunks of a stream: one pass, and constant text is encoded once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

import msgspec

from homegrown.serve.api.openai.head import Head
from homegrown.serve.api.openai.usage import Tally
from homegrown.serve.events import Event

DONE = b"data: [DONE]\n\n"

encode = msgspec.json.Encoder().encode


class Encoder(Protocol):
    """Makes an API's chunks of events."""

    def chunk(self, event: Event) -> bytes:
        """What is sent for an event, often nothing.

        Raises:
            ApiError: the event is `Failed`.
        """

    def end(self) -> bytes:
        """What is sent behind the last event."""


async def chunks(events: AsyncGenerator[Event, None], encoder: Encoder) -> AsyncGenerator[bytes, None]:
    """What is sent for `events`; closing it closes them."""
    async with aclosing(events):
        async for event in events:
            data = encoder.chunk(event)
            if data:
                yield data
    yield encoder.end()


class Frame:
    """A chunk's text around what changes from one to the next.

    Args:
        head: its constant fields.
        usage: the stream ends with a chunk of the usage; all others say that theirs is null, as OpenAI's do.
    """

    def __init__(self, head: Head, usage: bool) -> None:
        self._open = b"data: " + head.open()
        self._usage = usage
        self._before = self._open + b',"choices":[{"index":'
        self._after = b'}],"usage":null}\n\n' if usage else b"}]}\n\n"
        self._running = b',"finish_reason":null' + self._after

    def choice(self, answer: int, fields: bytes, finish: str | None = None) -> bytes:
        """A chunk for one answer; `fields` is JSON text of members, such as `"delta":{}`."""
        after = self._running if finish is None else b',"finish_reason":"' + finish.encode() + b'"' + self._after
        return b"%b%d,%b%b" % (self._before, answer, fields, after)

    def end(self, tally: Tally) -> bytes:
        """The last chunk, if the usage is wanted, and the end of the stream."""
        if not self._usage:
            return DONE
        return b'%b,"choices":[],"usage":%b}\n\n%b' % (self._open, encode(tally.report()), DONE)
