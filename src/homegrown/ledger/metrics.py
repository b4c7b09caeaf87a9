"""`metrics.jsonl`: one JSON object a line, written as a run goes and cut back when it resumes.

Metrics are for looking at, the ledger is for proof: there is no chain here, only whole lines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from homegrown.config import UserError
from homegrown.config.atomic import atomic_path
from homegrown.ledger.values import dumps, loads


class MetricsError(UserError):
    """A metrics file with a damaged line; the message names the file and the line."""


class MetricsWriter:
    """Appends lines to a metrics file; each is on its way to the disk when `write` returns."""

    def __init__(self, path: Path):
        """Open `path` for appending, made if missing; a last line torn by a crash is cut off.

        Raises:
            MetricsError: a line before the last is damaged.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            os.truncate(path, sum(len(line) for line, _ in walk_metrics(path)))
        self._file = path.open("ab", buffering=0)

    def write(self, kind: str, /, *, step: int, **values: Any) -> None:
        """Append one line.

        Args:
            kind: `train`, `eval`, `sample` or `event`.
            step: optimizer steps finished when it was measured.
            values: JSON values; NaN and infinities are kept.

        Raises:
            TypeError: a value that JSON cannot hold.
        """
        table = {"kind": kind, "step": step, **values}
        rest = memoryview(dumps(table, sort_keys=False).encode("ascii") + b"\n")
        while rest:
            rest = rest[self._file.write(rest) :]

    def rewind(self, step: int) -> None:
        """Keep only the lines whose step is at most `step`: what a run resumed there has really done.

        The file is replaced atomically; the kept lines stay as they are, byte for byte.
        """
        with atomic_path(self.path) as temporary, temporary.open("wb") as handle:
            handle.writelines(line for line, table in walk_metrics(self.path) if table["step"] <= step)
        self._file.close()
        self._file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        """Release the file; closing twice is fine."""
        self._file.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The values of `walk_metrics`, all of them."""
    return [table for _, table in walk_metrics(path)]


def walk_metrics(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield each whole line with its value, up to the end or to a last line torn by a crash.

    Raises:
        FileNotFoundError: there is no such file.
        MetricsError: a line before the last is damaged; the lines before it were yielded.
    """
    size, end = path.stat().st_size, 0
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            end += len(line)
            try:
                table = _parse(line)
            except ValueError as error:
                if end >= size:
                    return
                raise MetricsError(f"{path}, line {number}: {error}") from None
            if not _is_metric(table):
                raise MetricsError(f"{path}, line {number}: not an object with a kind and a whole-numbered step")
            yield line, table


def _parse(line: bytes) -> Any:
    if not line.endswith(b"\n"):
        raise ValueError("it has no newline")
    return loads(line)


def _is_metric(table: Any) -> bool:
    return isinstance(table, dict) and isinstance(table.get("kind"), str) and type(table.get("step")) is int
