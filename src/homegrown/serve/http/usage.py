"""Usage records in SQLite: one per answer, and sums per key, day and model.

A thread of its own writes what has come, twice a second, in one transaction: the event loop never waits for a disk.
In write-ahead mode a transaction that has ended survives the process, however it dies, so a `kill -9` loses what
came in the last half second; a power cut may lose a little more, but leaves the file sound.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

from homegrown.config import UserError
from homegrown.serve.http.limits import Spent
from homegrown.serve.http.metered import Answer, Listener

logger = logging.getLogger("homegrown.serve")

WRITE_EVERY = 0.5
"""Seconds."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    time REAL NOT NULL, request TEXT NOT NULL, name TEXT NOT NULL, tenant TEXT NOT NULL, path TEXT NOT NULL,
    model TEXT NOT NULL, prompt INTEGER NOT NULL, cached INTEGER NOT NULL, completion INTEGER NOT NULL,
    drafted INTEGER NOT NULL, accepted INTEGER NOT NULL, first_token_s REAL, total_s REAL NOT NULL, finish TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS records_time ON records (time);
CREATE TABLE IF NOT EXISTS days (
    day TEXT NOT NULL, name TEXT NOT NULL, model TEXT NOT NULL, answers INTEGER NOT NULL, prompt INTEGER NOT NULL,
    cached INTEGER NOT NULL, completion INTEGER NOT NULL, PRIMARY KEY (name, day, model)
);
"""
_RECORD = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DAY = """
INSERT INTO days VALUES (?, ?, ?, 1, ?, ?, ?) ON CONFLICT (name, day, model) DO UPDATE SET
    answers = answers + 1, prompt = prompt + excluded.prompt, cached = cached + excluded.cached,
    completion = completion + excluded.completion
"""


@dataclass(frozen=True)
class Record:
    """An answer that was made, or begun. Times are seconds; `first_token_s` is None if there was none."""

    time: float
    request: str
    name: str
    tenant: str
    path: str
    model: str
    prompt: int
    cached: int
    completion: int
    drafted: int
    accepted: int
    first_token_s: float | None
    total_s: float
    finish: str


@dataclass(frozen=True)
class DayTotal:
    """What a key used of a model on a day (UTC, YYYY-MM-DD). `cached` tokens are among those of the prompt."""

    day: str
    name: str
    model: str
    answers: int
    prompt: int
    cached: int
    completion: int


class UsageStore(Listener):
    """Writes down what is used.

    Args:
        path: the database; made if it is not there.
        model: what the served model is called.
        keep_days: records older than this are deleted; sums per day stay.

    Raises:
        UserError: the file cannot be used.
    """

    def __init__(self, path: Path, model: str, keep_days: int = 90) -> None:
        self._path, self._model, self._keep_days = path, model, keep_days
        self._queue: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open(path) as database:
            database.executescript(_SCHEMA)
        self._thread = threading.Thread(target=self._write, name="usage", daemon=True)
        self._thread.start()

    def ended(self, answer: Answer) -> None:
        """Take an answer down."""
        exchange, usage = answer.exchange, answer.usage
        if exchange is None:
            return
        first = None if answer.first is None else answer.first - answer.began
        record = Record(
            time.time(), exchange.id, exchange.client.name, exchange.client.tenant, exchange.path, self._model,
            usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.drafted, usage.accepted,
            first, time.perf_counter() - answer.began, answer.finish or "abort",
        )  # fmt: skip
        self._queue.put(record)

    def spent(self, name: str) -> Spent:
        """What a key has spent today and this month, as far as it has been written down."""
        today = datetime.now(UTC).date().isoformat()
        month = read_days(self._path, name=name, since=today[:8] + "01")
        tokens = [(total.day, total.prompt + total.completion) for total in month]
        return Spent(sum(count for day, count in tokens if day == today), sum(count for _, count in tokens), today)

    def days(self, name: str = "", since: str = "") -> list[DayTotal]:
        """Sums, oldest first, of one key or of all, from a day on."""
        return read_days(self._path, name=name, since=since)

    def close(self) -> None:
        """Write what is left and end."""
        self._queue.put(None)
        self._thread.join()

    def _write(self) -> None:
        with _open(self._path) as database:
            self._prune(database)
            going = True
            while going:
                batch = [self._queue.get()]
                if batch[0] is not None:
                    time.sleep(WRITE_EVERY)
                while not self._queue.empty():
                    batch.append(self._queue.get())
                records = [record for record in batch if record is not None]
                going = len(records) == len(batch)
                self._insert(database, records)

    def _insert(self, database: sqlite3.Connection, records: Iterable[Record]) -> None:
        try:
            with database:
                for record in records:
                    day = datetime.fromtimestamp(record.time, UTC).date().isoformat()
                    database.execute(_RECORD, astuple(record))
                    numbers = (record.prompt, record.cached, record.completion)
                    database.execute(_DAY, (day, record.name, record.model, *numbers))
        except sqlite3.Error as error:  # a full disk must not end the server; the operator must hear of it
            logger.error("usage records were lost: %s: %s", self._path, error)

    def _prune(self, database: sqlite3.Connection) -> None:
        oldest = datetime.now(UTC) - timedelta(days=self._keep_days)
        with database:
            database.execute("DELETE FROM records WHERE time < ?", (oldest.timestamp(),))


def read_days(path: Path, *, name: str = "", since: str = "") -> list[DayTotal]:
    """Sums per key, day and model, oldest first.

    Args:
        path: the database.
        name: only this key's.
        since: only from this day on, YYYY-MM-DD.

    Raises:
        UserError: the file is not there, or is no database of usage.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; `homegrown serve DIR --usage FILE` writes one")
    columns = ", ".join(field.name for field in fields(DayTotal))
    query = f"SELECT {columns} FROM days WHERE day >= ? AND (name = ? OR ? = '') ORDER BY day, name, model"
    with _open(path) as database:
        return [DayTotal(*row) for row in database.execute(query, (since, name, name))]


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path, timeout=10)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            yield database
    except sqlite3.Error as error:
        raise UserError(f"{path}: cannot be used for usage records: {error}") from None
