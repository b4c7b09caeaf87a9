"""How long work on a corpus tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of stages and of documents done in them."""

    def stage(self, title: str, text_bytes: int | None) -> None:
        """A stage begins; `text_bytes` is how much text it will see, None if unknown."""

    def advance(self, documents: int, text_bytes: int) -> None:
        """So much more is done."""


class Silent:
    """Tells nobody."""

    def stage(self, title: str, text_bytes: int | None) -> None:
        """Nothing."""

    def advance(self, documents: int, text_bytes: int) -> None:
        """Nothing."""
