"""A backend of several engines: some compute prompts, one answers."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec

from homegrown.serve.backend import State
from homegrown.serve.messages import Output, Request, Stats
from homegrown.serve.worker.process import ProcessBackend, WorkerError
from homegrown.serve.worker.protocol import Launch, Loading, Ready, Transfer

MEETING_S = 30.0
"""Seconds in which engines that are ready must have connected."""


class PairBackend:
    """Implements `Backend` around child processes: requests go to the one that answers, which has prompts computed by
    the others and gets their keys over sockets in a directory that only this user can enter.

    Each child is started anew by itself when it dies. Without one that computes prompts, the one that answers computes
    them; without the one that answers, running requests fail.

    Args:
        answers: what answers. Its `transfer` is set here.
        prompts: what computes prompts, one process each. Their `transfer` is set here. Options must be such that keys
            of one are keys of the other (`transfer.shape_of`).
        progress: is told how far loading of the one that answers is.
        own: prompts of which at most so many tokens are left are computed where answers are.
        backoff: as in `ProcessBackend`.

    Attributes:
        answering, computing: the children.
    """

    def __init__(
        self,
        answers: Launch,
        prompts: Sequence[Launch],
        progress: Callable[[Loading], None] = lambda loading: None,
        *,
        own: int = 0,
        backoff: float = 1.0,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="homegrown-"))
        secret = secrets.token_bytes(32)
        addresses = tuple(f"unix:{self._folder / f'{number}'}" for number in range(len(prompts)))
        self.computing = [
            ProcessBackend(_with(launch, Transfer(secret=secret, listen=address)), backoff=backoff)
            for launch, address in zip(prompts, addresses, strict=True)
        ]
        transfer = Transfer(secret=secret, ask=addresses, own=own)
        self.answering = ProcessBackend(_with(answers, transfer), progress, backoff=backoff)

    @property
    def ready(self) -> Ready | None:
        """What the child that answers said when it was ready."""
        return self.answering.ready

    @property
    def state(self) -> State:
        """Of the child that answers: with it alone, requests are taken."""
        return self.answering.state

    def stats(self) -> Stats:
        """Those of the child that answers; what prompts cost is the others' to say."""
        stats = self.answering.stats()
        others = [other.stats() for other in self.computing]
        return msgspec.structs.replace(
            stats,
            prefill_tokens=stats.prefill_tokens + sum(other.prefill_tokens for other in others),
            prefill_rate=sum(other.prefill_rate for other in others) or stats.prefill_rate,
        )

    def submit(self, request: Request) -> AsyncIterator[Output]:
        """Run a request; see `Backend.submit`."""
        return self.answering.submit(request)

    async def start(self) -> None:
        """Start all children; returns when all are ready, and connected.

        Raises:
            WorkerError: one of them ended before that, or they do not find each other.
        """
        try:
            await asyncio.gather(*(child.start() for child in self._children))
            await self._meet()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Abort what runs, and end all children."""
        await asyncio.gather(*(child.close() for child in self._children))
        await asyncio.to_thread(shutil.rmtree, self._folder, True)

    async def _meet(self) -> None:
        deadline = time.monotonic() + MEETING_S
        while self.answering.stats().helpers < len(self.computing):
            if time.monotonic() > deadline:
                found, wanted = self.answering.stats().helpers, len(self.computing)
                raise WorkerError(
                    f"after {MEETING_S:g} s, the engine that answers has reached {found} of the {wanted} that compute "
                    "prompts; it has logged why"
                )
            await asyncio.sleep(0.02)

    @property
    def _children(self) -> list[ProcessBackend]:
        return [self.answering, *self.computing]


def _with(launch: Launch, transfer: Transfer) -> Launch:
    return msgspec.structs.replace(launch, transfer=transfer)
