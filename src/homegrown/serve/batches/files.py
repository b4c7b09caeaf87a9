"""Files that clients uploaded or that batches made, in one directory: a file of data and one of facts for each.

Whatever dies when, a file is there as a whole or not at all: the data is written first, the facts are what counts.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from homegrown.config import UserError
from homegrown.config.atomic import atomic_path, write_bytes
from homegrown.serve.errors import ApiError

_ID = re.compile(r"file-[0-9a-f]{24}")


class File(msgspec.Struct, kw_only=True):
    """Facts of a file; times are Unix seconds, `expires_at` 0 is never."""

    id: str
    tenant: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    expires_at: int = 0

    def show(self) -> dict[str, Any]:
        """As the OpenAI API shows it."""
        fields = {name: getattr(self, name) for name in ("id", "filename", "purpose", "bytes", "created_at")}
        return {**fields, "object": "file", "status": "processed", "expires_at": self.expires_at or None}


def new_id() -> str:
    """An id that nobody can guess."""
    return f"file-{secrets.token_hex(12)}"


class Files:
    """The directory.

    Args:
        folder: made if it is not there.
        largest_total: bytes of all files together.
        clock: Unix seconds.
        keep: ids of files that are still to be adopted, whose data may be here already.

    Raises:
        UserError: the directory holds something unreadable.
    """

    def __init__(
        self,
        folder: Path,
        largest_total: int,
        clock: Callable[[], float] = time.time,
        keep: Collection[str] = (),
    ) -> None:
        self._folder, self._largest_total, self._clock = folder, largest_total, clock
        folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, File] = {}
        for path in sorted(folder.glob("*.json")):
            try:
                file = msgspec.json.decode(path.read_bytes(), type=File)
            except msgspec.MsgspecError as error:
                raise UserError(f"{path}: not the facts of a file: {error}; remove it") from None
            self._files[file.id] = file
        for path in folder.iterdir():
            if path.name.endswith(".tmp") or (path.suffix == ".data" and path.stem not in {*self._files, *keep}):
                path.unlink()  # its upload was cut off

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self._files.values())

    def create(self, tenant: str, filename: str, purpose: str, source: BinaryIO, size: int, lasts: int = 0) -> File:
        """Keep a copy of what `source` holds. Waits for the disk.

        Args:
            tenant: whose it is.
            filename: what the client calls it; it is never used as a path.
            purpose: what for.
            source: read to its end.
            size: its bytes.
            lasts: seconds; 0 is for ever.

        Raises:
            ApiError: there is no room.
        """
        if self.total + size > self._largest_total:
            raise ApiError(
                "too_large", f"there is no room for a file of {size} bytes: all files together have at most "
                f"{self._largest_total} bytes here; delete some",
            )  # fmt: skip
        file_id = new_id()
        with atomic_path(self._data(file_id)) as temporary, temporary.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        return self._add(file_id, tenant, filename, purpose, lasts)

    def adopt(self, file_id: str, tenant: str, filename: str, purpose: str, path: Path, lasts: int = 0) -> None:
        """Make a finished file on this disk one of these, under an id known before; once, however often it is tried."""
        if file_id not in self._files:
            if path.exists():
                path.replace(self._data(file_id))
            self._add(file_id, tenant, filename, purpose, lasts)

    def of(self, tenant: str) -> list[File]:
        """A tenant's files, oldest first."""
        self.sweep()
        found = [file for file in self._files.values() if file.tenant == tenant]
        return sorted(found, key=lambda file: file.created_at)

    def get(self, tenant: str, file_id: str) -> File:
        """A tenant's file.

        Raises:
            ApiError: it has none of this id.
        """
        self.sweep()
        file = self._files.get(file_id)
        if file is None or file.tenant != tenant:
            raise ApiError("not_found", f"no such file: {file_id[:64]!r}", param="file_id")
        return file

    def path(self, file: File) -> Path:
        """Where its data is."""
        return self._data(file.id)

    def delete(self, file: File) -> None:
        """Forget a file."""
        self._facts(file.id).unlink(missing_ok=True)
        self._data(file.id).unlink(missing_ok=True)
        self._files.pop(file.id, None)

    def sweep(self) -> None:
        """Forget what has expired."""
        now = self._clock()
        for file in [file for file in self._files.values() if file.expires_at and file.expires_at <= now]:
            self.delete(file)

    def _add(self, file_id: str, tenant: str, filename: str, purpose: str, lasts: int) -> File:
        now = int(self._clock())
        file = File(
            id=file_id, tenant=tenant, filename=filename[:256], purpose=purpose, created_at=now,
            bytes=self._data(file_id).stat().st_size, expires_at=now + lasts if lasts else 0,
        )  # fmt: skip
        write_bytes(self._facts(file_id), msgspec.json.encode(file))
        self._files[file_id] = file
        return file

    def _data(self, file_id: str) -> Path:
        return self._folder / f"{_checked(file_id)}.data"

    def _facts(self, file_id: str) -> Path:
        return self._folder / f"{_checked(file_id)}.json"


def _checked(file_id: str) -> str:
    """Ids become file names, so nothing else may."""
    if not _ID.fullmatch(file_id):
        raise ValueError(f"{file_id!r} is no file's id")
    return file_id
