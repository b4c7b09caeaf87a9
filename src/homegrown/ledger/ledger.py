"""A ledger open for appending: one writer at a time, whole lines only."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from homegrown.ledger.chain import GENESIS, LedgerError, Record, TornTailError, walk

_LOST_SHOWN = 2000
"""Characters of a torn line that the `recovered` record keeps."""


def utc_now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


class Ledger:
    """An append-only hash chain of records in one file. Make one with `create` or `open`, and close it.

    Attributes:
        path: the file.
        head: hash of the last record; `GENESIS` while there is none.
        count: number of records.
    """

    def __init__(self, path: Path, sync: bool, clock: Callable[[], datetime]):
        self.path = path
        self.head = GENESIS
        self.count = 0
        self._sync = sync
        self._clock = clock
        self._file = _open_locked(path)
        self._size = path.stat().st_size

    @classmethod
    def create(cls, path: Path, *, sync: bool = True, clock: Callable[[], datetime] = utc_now) -> Ledger:
        """Start an empty ledger.

        Args:
            path: the file; its folder is made if missing.
            sync: force each record to the disk before `append` returns.
            clock: gives the time written into records.

        Raises:
            LedgerError: the file exists already; a ledger is never replaced.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.open("xb").close()
        except FileExistsError:
            raise LedgerError(f"{path}: exists already; Ledger.open continues it") from None
        if sync:
            _sync_folder(path.parent)
        return cls(path, sync, clock)

    @classmethod
    def open(cls, path: Path, *, sync: bool = True, clock: Callable[[], datetime] = utc_now) -> Ledger:
        """Verify a ledger from its first record to its last, and continue it.

        A last line torn by a crash is cut off, and a record of kind `recovered` says what was lost.

        Raises:
            LedgerError: no such file, any other damage, or another process is writing it.
        """
        if not path.is_file():
            raise LedgerError(f"{path}: no such ledger")
        ledger = cls(path, sync, clock)
        try:
            ledger._continue()
        except BaseException:
            ledger.close()
            raise
        return ledger

    @staticmethod
    def read(path: Path) -> list[Record]:
        """All records of a ledger, verified.

        Raises:
            TornTailError: the last line was cut short by a crash; `Ledger.open` recovers such a file.
            LedgerError: no such file, or a damaged line.
        """
        return list(walk(path))

    def append(self, kind: str, /, **payload: Any) -> Record:
        """Write one record at the end of the chain.

        Args:
            kind: what happened, such as `start`, `checkpoint` or `fault`.
            payload: its details, as JSON values; NaN and infinities are kept.

        Raises:
            TypeError: a payload that JSON cannot hold; the ledger is unchanged.
            LedgerError: the file is closed, was changed by someone else, or could not be written.
        """
        time = self._clock().astimezone(UTC).isoformat(timespec="microseconds")
        record = Record.make(self.count, time, kind, payload, self.head)
        self._write(record.line())
        self.head = record.hash
        self.count += 1
        return record

    def close(self) -> None:
        """Release the file; closing twice is fine."""
        self._file.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _continue(self) -> None:
        try:
            for record in walk(self.path):
                self.head, self.count = record.hash, record.seq + 1
        except TornTailError as torn:
            os.ftruncate(self._file.fileno(), torn.offset)
            self._size = torn.offset
            lost = torn.lost.decode("ascii", "backslashreplace")[:_LOST_SHOWN]
            self.append("recovered", line=self.count + 1, bytes=len(torn.lost), lost=lost)

    def _write(self, line: bytes) -> None:
        if self._file.closed:
            raise LedgerError(f"{self.path}: closed; a record cannot be appended")
        size = os.fstat(self._file.fileno()).st_size
        if size != self._size:
            raise LedgerError(f"{self.path}: {size} bytes long where {self._size} were written; something else wrote")
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            if self._sync:
                os.fsync(self._file.fileno())
        except OSError as error:
            # Half a line must not stay: a later append would turn a torn tail into damage in the middle.
            os.ftruncate(self._file.fileno(), self._size)
            raise LedgerError(f"{self.path}: record {self.count} could not be written: {error}") from error
        self._size += len(line)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _open_locked(path: Path) -> FileIO:
    """Open for appending, unbuffered, with an exclusive lock that ends with the process.

    Raises:
        LedgerError: the lock is held, or the file system has no locks.
    """
    file = path.open("ab", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise LedgerError(f"{path}: already open for writing, here or in another process; close that one") from None
    except OSError as error:
        file.close()
        raise LedgerError(
            f"{path}: its file system cannot lock files ({error}); put the run on one that can"
        ) from error
    return file
