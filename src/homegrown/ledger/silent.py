"""The record as a process sees it that keeps none: of many ranks one writes, the others go through the same motions."""

from __future__ import annotations

from typing import Any


class SilentLedger:
    """Takes records and writes nothing."""

    def append(self, kind: str, /, **payload: Any) -> None:
        """Forget a record."""

    def close(self) -> None:
        """Nothing is open."""


class SilentMetrics:
    """Takes lines and writes nothing."""

    def write(self, kind: str, /, *, step: int, **values: Any) -> None:
        """Forget a line."""

    def rewind(self, step: int) -> None:
        """There is nothing to cut back."""

    def close(self) -> None:
        """Nothing is open."""
