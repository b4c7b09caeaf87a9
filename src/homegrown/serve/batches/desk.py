"""Files and batches as a part of a running server: what there is, who works on it, and where it is kept."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec
from starlette.routing import Route
from starlette.types import ASGIApp

from homegrown.config import UserError
from homegrown.config.atomic import write_bytes
from homegrown.serve.batches.batch import ENDED, WINDOWS, Batch, Status, check, new_batch_id
from homegrown.serve.batches.files import Files, new_id
from homegrown.serve.batches.run import Runner
from homegrown.serve.errors import ApiError
from homegrown.serve.http.clients import Client
from homegrown.serve.http.dialect import GENERATING
from homegrown.serve.http.options import Options

logger = logging.getLogger("homegrown.serve")

SAVE_EVERY = 5.0
"""Seconds between writing down how far a batch is. What counts, its answers, is written as it comes."""
MOST_BATCHES = 100
"""Unfinished ones of a tenant."""


class Desk:
    """Takes files and batches, works on these, and goes on after a restart.

    Args:
        folder: where everything is kept.
        options: bounds.
        ready: whether the engine takes requests.
        afford: raises `ApiError` if a client's budget is spent.

    Raises:
        UserError: the directory holds something unreadable, or another server uses it.
    """

    def __init__(
        self, folder: Path, options: Options, ready: Callable[[], bool], afford: Callable[[Client], None]
    ) -> None:
        self._folder, self._options, self._ready, self._afford = folder / "batches", options, ready, afford
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder)
        self._batches = {batch.id: batch for batch in map(_read, sorted(self._folder.glob("*.json")))}
        unfinished = [batch for batch in self._batches.values() if batch.status not in ENDED]
        coming = {name for batch in unfinished for name in (batch.results, batch.failures)}
        self.files = Files(folder / "files", options.max_files, keep=coming)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._runner: Runner | None = None

    def routes(self) -> list[Route]:
        """Of the OpenAI API."""
        from homegrown.serve.batches.routes import routes

        return routes(self)

    def start(self, app: ASGIApp) -> None:
        """Go on with what is unfinished, through an application."""
        self._runner = Runner(app, self._options.batch_running, self._ready, self._afford)
        for batch in self._batches.values():
            if batch.status not in ENDED:
                self._begin(batch)

    async def close(self) -> None:
        """Stop; what is unfinished goes on at the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._lock.close()

    def create(
        self, owner: Client, endpoint: str, file_id: str, window: str, metadata: dict[str, str] | None, lasts: int
    ) -> Batch:
        """Take a batch and begin it.

        Raises:
            ApiError: its file, endpoint or window is none of those there are, or there are too many batches.
        """
        self.files.get(owner.tenant, file_id)
        if endpoint not in GENERATING:
            known = ", ".join(sorted(GENERATING))
            raise ApiError("invalid", f"endpoint must be one of {known}", param="endpoint")
        if window not in WINDOWS:
            raise ApiError("invalid", f"completion_window must be {' or '.join(WINDOWS)}", param="completion_window")
        if sum(batch.status not in ENDED for batch in self.of(owner.tenant)) >= MOST_BATCHES:
            raise ApiError("rate_limit", f"{MOST_BATCHES} batches are unfinished; wait for one", retry_after=60.0)
        now = int(time.time())
        batch = Batch(
            id=new_batch_id(), owner=owner, endpoint=endpoint, input_file_id=file_id, completion_window=window,
            results=new_id(), failures=new_id(), created_at=now, expires_at=now + WINDOWS[window],
            metadata=metadata, lasts=lasts,
        )  # fmt: skip
        self._save(batch)
        self._batches[batch.id] = batch
        self._begin(batch)
        return batch

    def of(self, tenant: str) -> list[Batch]:
        """A tenant's batches, newest first."""
        found = [batch for batch in self._batches.values() if batch.owner.tenant == tenant]
        return sorted(found, key=lambda batch: batch.created_at)[::-1]

    def get(self, tenant: str, batch_id: str) -> Batch:
        """A tenant's batch.

        Raises:
            ApiError: it has none of this id.
        """
        batch = self._batches.get(batch_id)
        if batch is None or batch.owner.tenant != tenant:
            raise ApiError("not_found", f"no such batch: {batch_id[:64]!r}", param="batch_id")
        return batch

    def cancel(self, batch: Batch) -> None:
        """Begin no more requests and break off those that run.

        Raises:
            ApiError: it has ended already.
        """
        if batch.status in ENDED:
            raise ApiError("conflict", f"the batch has ended already: it is {batch.status}")
        if batch.status in ("validating", "in_progress"):
            self._move(batch, "cancelling")

    def uses(self, file_id: str) -> bool:
        """Whether a file is the input of an unfinished batch."""
        return any(batch.input_file_id == file_id and batch.status not in ENDED for batch in self._batches.values())

    def _begin(self, batch: Batch) -> None:
        if self._runner is not None:
            task = asyncio.create_task(self._work(self._runner, batch))
            self._tasks[batch.id] = task
            task.add_done_callback(lambda task: self._tasks.pop(batch.id, None))

    async def _work(self, runner: Runner, batch: Batch) -> None:
        try:
            if batch.status == "validating":
                await self._validate(batch)
            if batch.status in ("in_progress", "cancelling"):
                await self._answer(runner, batch)
            if batch.status not in ENDED:
                await asyncio.to_thread(self._finish, batch)
        except (OSError, ApiError) as error:  # no space left, or the input file expired meanwhile
            logger.error("batch %s failed: %s", batch.id, error)
            self._move(batch, "failed")

    async def _validate(self, batch: Batch) -> None:
        file = self.files.get(batch.owner.tenant, batch.input_file_id)
        longest = self._options.max_body
        batch.total, batch.faults = await asyncio.to_thread(check, self.files.path(file), batch.endpoint, longest)
        if batch.status == "validating":  # and not cancelled meanwhile
            self._move(batch, "failed" if batch.faults else "in_progress")

    async def _answer(self, runner: Runner, batch: Batch) -> None:
        source = self.files.path(self.files.get(batch.owner.tenant, batch.input_file_id))
        saving = asyncio.create_task(self._save_often(batch))
        try:
            await runner.run(batch, source, *self._parts(batch), self._options.max_body)
        finally:
            saving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await saving

    def _finish(self, batch: Batch) -> None:
        """Make files of what there is, and say how it ended. May be done again."""
        ending: Status = "cancelled" if batch.cancelling_at else "expired" if batch.expired_at else "completed"
        results, failures = self._parts(batch)
        batch.has_results = batch.has_results or _filled(results)
        batch.has_failures = batch.has_failures or _filled(failures)
        if batch.status == "in_progress":
            self._move(batch, "finalizing")
        owner, lasts = batch.owner.tenant, batch.lasts
        if batch.has_results:
            self.files.adopt(batch.results, owner, f"{batch.id}_output.jsonl", "batch_output", results, lasts)
        if batch.has_failures:
            self.files.adopt(batch.failures, owner, f"{batch.id}_error.jsonl", "batch_output", failures, lasts)
        for path in (results, failures):
            path.unlink(missing_ok=True)
        self._move(batch, ending)

    async def _save_often(self, batch: Batch) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY)
            self._save(batch)

    def _move(self, batch: Batch, status: Status) -> None:
        batch.become(status, time.time())
        self._save(batch)

    def _save(self, batch: Batch) -> None:
        write_bytes(self._folder / f"{batch.id}.json", msgspec.json.encode(batch))

    def _parts(self, batch: Batch) -> tuple[Path, Path]:
        return self._folder / f"{batch.id}.results", self._folder / f"{batch.id}.failures"


def _lock(folder: Path) -> BinaryIO:
    """Hold the directory as long as the file returned is open: two servers would do the same batches."""
    file = (folder / "lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(f"{folder}: another server is using this directory; give each its own") from None
    return file


def _read(path: Path) -> Batch:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Batch)
    except msgspec.MsgspecError as error:
        raise UserError(f"{path}: not a batch: {error}; remove it") from None


def _filled(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
