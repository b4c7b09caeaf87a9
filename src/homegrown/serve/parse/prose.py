"""Reasoning and text without the line ends around it."""

from __future__ import annotations

from collections.abc import Callable


class Prose:
    """Passes text on; line ends wait until it is certain that they do not stand at the beginning or the end.

    The template puts line ends around thinking and before calls. They belong to the template, not to what is said.

    Args:
        emit: takes the text.
    """

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._begun = False
        self._waiting = 0

    def add(self, text: str) -> None:
        """More of it, however it is split."""
        body = text.strip("\n")
        if not body:
            self._waiting += len(text)
            return
        before = self._waiting + len(text) - len(text.lstrip("\n"))
        self._emit("\n" * (before if self._begun else 0) + body)
        self._begun = True
        self._waiting = len(text) - len(text.rstrip("\n"))

    def flush(self) -> None:
        """Let line ends through after all: what follows them is text, or nothing."""
        if self._begun and self._waiting:
            self._emit("\n" * self._waiting)
        self._waiting = 0

    def close(self) -> None:
        """The end, without the line ends before it; what is added next is a beginning."""
        self._begun, self._waiting = False, 0
