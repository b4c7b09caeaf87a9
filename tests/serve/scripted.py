"""A backend that says what it is told: for tests of what stands between an engine and a client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from homegrown.serve.backend import State
from homegrown.serve.messages import Finish, Output, Request, Stats, TokenScore, Usage

Script = Callable[[Request], Sequence[int]]


class ScriptedBackend:
    """Answers every request with given tokens, some at a time.

    Args:
        script: the tokens, or a function that makes them of a request. Those beyond the request's `max_tokens` are cut
            off; where all fit, the answer ends with `stop`.
        at_a_time: tokens per output.
        pause: seconds before each output.
        cached: prompt tokens said to have been cached.

    Attributes:
        requests: all that came.
        aborted: ids of those whose iterator was closed early.
    """

    def __init__(
        self, script: Script | Sequence[int], at_a_time: int = 1, pause: float = 0.0, cached: int = 0, error: str = ""
    ) -> None:
        self._script: Script = script if callable(script) else lambda request: script
        self._at_a_time, self._pause, self._cached, self._error = at_a_time, pause, cached, error
        self.state: State = "ready"
        self.requests: list[Request] = []
        self.aborted: list[str] = []

    def stats(self) -> Stats:
        return Stats()

    async def start(self) -> None:
        self.state = "ready"

    async def close(self) -> None:
        self.state = "dead"

    async def submit(self, request: Request) -> AsyncIterator[Output]:
        self.requests.append(request)
        whole = list(self._script(request))
        tokens = whole[: request.sampling.max_tokens]
        finish: Finish = "stop" if len(tokens) == len(whole) else "length"
        usage = Usage(prompt_tokens=len(request.prompt), completion_tokens=len(tokens), cached_tokens=self._cached)
        wants = request.sampling.logprobs
        try:
            for start in range(0, max(len(tokens), 1), self._at_a_time):
                await asyncio.sleep(self._pause)
                part = tokens[start : start + self._at_a_time]
                last = start + self._at_a_time >= len(tokens)
                yield Output(
                    id=request.id,
                    tokens=part,
                    scores=[TokenScore(-0.5, ((token, -0.5),)[:wants]) for token in part] if wants >= 0 else None,
                    finish=("error" if self._error else finish) if last else None,
                    usage=usage if last or start == 0 else None,
                    error=self._error if last else "",
                )
        except (GeneratorExit, asyncio.CancelledError):
            self.aborted.append(request.id)
            raise
