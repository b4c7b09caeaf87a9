"""Stop texts in a stream: what may still become one is held back."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Passes text on until a stop text appears, whatever pieces it arrives in.

    The text ends before the stop text that is complete first; where several end at the same character, before the
    longest. A character is released as soon as no stop text can begin at it.

    Attributes:
        hit: whether a stop text has appeared; what is pushed after it is dropped.
        found: the stop text that has appeared.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False
        self.found: str | None = None

    def push(self, text: str) -> str:
        """The part of what has been pushed so far that is now certain to belong to the result."""
        if self.hit:
            return ""
        self._held += text
        ends = ((at + len(stop), at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0)
        _, at, self.found = min(ends, default=(0, -1, None))
        self.hit = at >= 0
        return self._release(at if self.hit else len(self._held) - self._undecided())

    def flush(self) -> str:
        """The rest, when no more text comes."""
        return "" if self.hit else self._release(len(self._held))

    def _release(self, count: int) -> str:
        certain, self._held = self._held[:count], self._held[count:]
        return certain

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop text."""
        longest = max(map(len, self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
