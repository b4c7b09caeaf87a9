"""A backend that keeps account of what it is used for: the one place where tokens are counted, whatever API asked."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from copy import copy
from dataclasses import dataclass, field
from typing import cast

from homegrown.serve.backend import Backend, State
from homegrown.serve.http.exchange import Exchange, current
from homegrown.serve.messages import Finish, Output, Request, Stats, Usage


@dataclass(kw_only=True)
class Answer:
    """One text in the making, or made.

    Attributes:
        request: as the engine got it.
        exchange: of the HTTP request it is for; None for work that nobody asked for over HTTP.
        tokens: that came so far.
        usage: what it took; of one that was cut off, what was seen of it.
        finish: why it ended; None while it has not, or if the client left.
        began, first, last: `time.perf_counter()` when it was submitted, at its first token, and at the newest.
    """

    request: Request
    exchange: Exchange | None
    tokens: int = 0
    usage: Usage = field(default_factory=Usage)
    finish: Finish | None = None
    began: float = field(default_factory=time.perf_counter)
    first: float | None = None
    last: float = 0.0


class Listener:
    """Is told of answers. Calls are made on the event loop and must not wait."""

    def submitted(self, answer: Answer) -> None:
        """It was given to the engine."""

    def begun(self, answer: Answer) -> None:
        """Its first token is there; `first` is set."""

    def grown(self, answer: Answer, tokens: int, gap: float) -> None:
        """Tokens came, the first ones excepted, so many seconds after those before."""

    def ended(self, answer: Answer) -> None:
        """Nothing more comes."""


class MeteredBackend:
    """A backend that tells listeners what becomes of its requests.

    Args:
        inner: does the work.

    Attributes:
        listeners: are told, in order.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.listeners: list[Listener] = [_ForExchange()]

    @property
    def state(self) -> State:
        """As the backend's."""
        return self._inner.state

    def stats(self) -> Stats:
        """As the backend's."""
        return self._inner.stats()

    async def start(self) -> None:
        """As the backend's."""
        await self._inner.start()

    async def close(self) -> None:
        """As the backend's."""
        await self._inner.close()

    async def submit(self, request: Request) -> AsyncIterator[Output]:
        """As the backend's; the listeners see every output before the caller does."""
        answer = Answer(request=request, exchange=current.get())
        for listener in self.listeners:
            listener.submitted(answer)
        try:
            outputs = cast(AsyncGenerator[Output, None], self._inner.submit(request))  # it can be closed
            async with aclosing(outputs):
                async for output in outputs:
                    self._note(answer, output)
                    yield output
        finally:
            for listener in self.listeners:
                listener.ended(answer)

    def _note(self, answer: Answer, output: Output) -> None:
        now = time.perf_counter()
        answer.tokens += len(output.tokens)
        if output.usage is not None:
            answer.usage = copy(output.usage)
        if output.finish is None:  # else the engine's last word is taken as it is
            answer.usage.completion_tokens = answer.tokens
        answer.finish = output.finish
        if not output.tokens:
            return
        if answer.first is None:
            answer.first = answer.last = now
            for listener in self.listeners:
                listener.begun(answer)
        else:
            gap, answer.last = now - answer.last, now
            for listener in self.listeners:
                listener.grown(answer, len(output.tokens), gap)


class _ForExchange(Listener):
    """Adds answers up in the exchange they are for."""

    def submitted(self, answer: Answer) -> None:
        if answer.exchange is not None:
            answer.exchange.answers += 1

    def begun(self, answer: Answer) -> None:
        if answer.exchange is not None and answer.exchange.first_token_s is None:
            answer.exchange.first_token_s = answer.exchange.elapsed

    def ended(self, answer: Answer) -> None:
        if answer.exchange is None:
            return
        total, more = answer.exchange.usage, answer.usage
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "drafted", "accepted", "preempted"):
            setattr(total, name, getattr(total, name) + getattr(more, name))
        for name in ("queue_s", "prefill_s", "decode_s"):
            setattr(total, name, max(getattr(total, name), getattr(more, name)))
        answer.exchange.finish = answer.finish or "abort"
