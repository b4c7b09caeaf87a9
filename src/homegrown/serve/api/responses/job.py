"""A response while it is being made: streamed, waited for, or in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from homegrown.serve.api.patience import patient
from homegrown.serve.api.responses.encode import Encoder, Wire, frame
from homegrown.serve.api.responses.schema import Items
from homegrown.serve.api.responses.store import Store, Stored
from homegrown.serve.errors import ApiError
from homegrown.serve.service import Prepared, Service

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be done.

    Attributes:
        prepared: the request to the service.
        encoder: has the response.
        tenant: whose it is.
        items: its input.
        store: where it is kept when it is complete; `None`: nowhere.
    """

    prepared: Prepared
    encoder: Encoder
    tenant: str
    items: Items
    store: Store | None

    async def stream(self, service: Service, patience_s: float) -> AsyncGenerator[bytes, None]:
        """The response as server-sent events.

        Args:
            service: what makes it.
            patience_s: see `routes`.

        Raises:
            ApiError: the service failed.
        """
        async with aclosing(patient(service.events(self.prepared), patience_s)) as events:
            async for event in events:
                wires = self.encoder.start() if event is None else self.encoder.push(event)
                if wires:
                    yield frame(wires)
        self.keep()

    async def whole(self, service: Service) -> Wire:
        """The response when it is complete.

        Raises:
            ApiError: the service failed.
        """
        async with aclosing(service.events(self.prepared)) as events:
            async for event in events:
                self.encoder.push(event)
        self.keep()
        return self.encoder.response

    def keep(self) -> None:
        """Store the response as it is."""
        if self.store:
            self.store.put(self.encoder.response["id"], Stored.of(self.tenant, self.encoder.response, self.items))


class Background:
    """Responses that are made while nobody waits.

    Args:
        most: so many at once.
    """

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._running: dict[str, tuple[Job, asyncio.Task[Wire]]] = {}

    def begin(self, job: Job, service: Service) -> Wire:
        """Start a job in a task of its own.

        Raises:
            ApiError: `overloaded`: too many are running.
        """
        if len(self._running) >= self._most:
            message = f"{self._most} responses are being made in the background, as many as this server makes at once."
            raise ApiError("overloaded", message, retry_after=10.0)
        task = asyncio.create_task(job.whole(service))
        self._running[job.encoder.response["id"]] = (job, task)
        task.add_done_callback(lambda task: self._ended(job, task))
        return job.encoder.response

    def find(self, response_id: str, tenant: str) -> Wire | None:
        """A response that is being made, as it is so far."""
        job, _ = self._running.get(response_id, (None, None))
        return job.encoder.response if job and job.tenant == tenant else None

    async def cancel(self, response_id: str, tenant: str) -> None:
        """End a job, if it runs; what there is of its response is stored."""
        job, task = self._running.get(response_id, (None, None))
        if job and task and job.tenant == tenant:
            task.cancel()
            await asyncio.wait({task})

    def _ended(self, job: Job, task: asyncio.Task[Wire]) -> None:
        del self._running[job.encoder.response["id"]]
        if task.cancelled():
            job.encoder.cancel()
        elif error := task.exception():
            if not isinstance(error, ApiError):
                _log.error("a response in the background failed", exc_info=error)
                error = ApiError("internal", "The server failed while it was answering.")
            job.encoder.fail(error)
        else:
            return
        job.keep()
