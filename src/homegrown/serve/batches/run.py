"""Running a batch: line by line through the application, at the lowest priority, so that it can be broken off anywhere
and go on from there."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from starlette.types import ASGIApp

from homegrown.serve.batches.batch import Batch, Line, remaining
from homegrown.serve.batches.inprocess import Reply, post
from homegrown.serve.errors import ApiError
from homegrown.serve.http.clients import Client
from homegrown.serve.http.exchange import Exchange

PRIORITY = -1_000_000
"""Below everything that somebody waits for."""

TRIES = 3
"""Of a request whose failure is the server's."""
_EXPIRED = "batch_expired"
_PASSING = frozenset({429, 500, 503, 529})


class Runner:
    """Answers lines of batches.

    Args:
        app: routes, behind the layers that authenticate and admit.
        running: requests at a time, of all batches together; each batch in turn begins one.
        ready: whether the engine takes requests.
        afford: raises `ApiError` if a client's budget is spent.
        pause: seconds before a request is tried again.
    """

    def __init__(
        self,
        app: ASGIApp,
        running: int,
        ready: Callable[[], bool],
        afford: Callable[[Client], None] = lambda client: None,
        pause: float = 2.0,
    ) -> None:
        self._app, self._ready, self._afford, self._pause = app, ready, afford, pause
        self._slots = asyncio.Semaphore(running)

    async def run(self, batch: Batch, source: Path, results: Path, failures: Path, longest: int) -> None:
        """Answer what is not yet answered, until everything is, or the batch is cancelled or too late.

        Args:
            batch: its counts are kept up to date.
            source: the requests, checked.
            results, failures: get a line for each that was answered, and that was not; they may have some already.
            longest: bytes of a line.
        """
        done = _done(batch, results, failures)
        tasks: set[asyncio.Task[None]] = set()
        lines = remaining(source, longest, done)
        with results.open("ab") as answered, failures.open("ab") as failed:
            try:
                while not _over(batch) and (line := await asyncio.to_thread(next, lines, None)) is not None:
                    await self._slots.acquire()
                    task = asyncio.create_task(self._line(batch, line, answered, failed))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    task.add_done_callback(lambda task: self._slots.release())
                while tasks and not _over(batch):
                    await asyncio.wait(tasks, timeout=1.0)
            finally:
                await _cancel(tasks)
                lines.close()
        if _late(batch):
            await asyncio.to_thread(_expire, batch, source, results, failures, longest)

    async def _line(self, batch: Batch, line: Line, answered: BinaryIO, failed: BinaryIO) -> None:
        reply, request_id = await self._reply(batch, line)
        good = reply.status < 300
        response = {"status_code": reply.status, "request_id": request_id, "body": _json(reply.body)}
        target = answered if good else failed
        target.write(_record(line.custom_id, response=response))
        target.flush()  # what the operating system has, outlives this process
        batch.completed += good
        batch.failed += not good

    async def _reply(self, batch: Batch, line: Line) -> tuple[Reply, str]:
        client = replace(batch.owner, priority=PRIORITY)
        for number in range(1, TRIES + 1):
            while not self._ready():
                await asyncio.sleep(self._pause)
            exchange = Exchange(
                id=f"req_{secrets.token_hex(12)}", method="POST", path=batch.endpoint, client=batch.owner
            )
            reply = await self._once(exchange, line, client)
            if reply.status not in _PASSING or number == TRIES:
                break
            await asyncio.sleep(self._pause)
        return reply, exchange.id

    async def _once(self, exchange: Exchange, line: Line, client: Client) -> Reply:
        try:
            self._afford(exchange.client)
        except ApiError as error:
            return Reply(403, msgspec.json.encode({"error": {"message": error.message, "code": "insufficient_quota"}}))
        try:
            return await post(self._app, exchange, msgspec.json.encode({**line.body, "stream": False}), client)
        except Exception:  # the application has logged it and answered, or could not
            return Reply(500, b'{"error": {"message": "this server has a defect", "type": "server_error"}}')


def _over(batch: Batch) -> bool:
    return batch.status == "cancelling" or _late(batch)


def _late(batch: Batch) -> bool:
    return time.time() >= batch.expires_at


def _expire(batch: Batch, source: Path, results: Path, failures: Path, longest: int) -> None:
    """Say of every request that was not answered that it came too late."""
    done = _done(batch, results, failures)
    error = {"code": _EXPIRED, "message": "this request could not be answered before the batch expired"}
    with failures.open("ab") as file:
        for line in remaining(source, longest, done):
            file.write(_record(line.custom_id, error=error))
    _done(batch, results, failures)


def _record(custom_id: str, response: Any = None, error: Any = None) -> bytes:
    entry = {
        "id": f"batch_req_{secrets.token_hex(12)}", "custom_id": custom_id, "response": response, "error": error
    }  # fmt: skip
    return msgspec.json.encode(entry) + b"\n"


def _done(batch: Batch, results: Path, failures: Path) -> set[str]:
    """The custom_ids of requests that are over. Counts them, and notes whether the batch came too late for some."""
    answered, failed = _mend(results), _mend(failures)
    batch.completed, batch.failed = len(answered), len(failed)
    if any(entry["error"] and entry["error"]["code"] == _EXPIRED for entry in failed):
        batch.expired_at = batch.expired_at or int(time.time())
    return {entry["custom_id"] for entry in (*answered, *failed)}


def _mend(path: Path) -> list[dict[str, Any]]:
    """What each line says, without the answers; a line that was not written to its end is cut off."""
    found, end = [], 0
    with path.open("a+b") as file:
        file.seek(0)
        for text in file:
            if not text.endswith(b"\n"):
                file.truncate(end)
                break
            end += len(text)
            entry = msgspec.json.decode(text)
            found.append({"custom_id": entry["custom_id"], "error": entry["error"]})
    return found


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return body.decode("utf-8", "replace")


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
