"""Characters that arrive in pieces, read as if they were all there.

A parser is a generator that waits for input by yielding, so it can be written like one that has the whole text. It sees
single characters and runs of them, and a run may end where a piece does, so it must treat two runs like one: this is
what makes it indifferent to how the text was split.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]
"""A parser: yields when it needs more text, and returns a T in the end."""

_SPACE = re.compile(r"[ \t\r\n]+")


class Source:
    """The text to be read.

    Attributes:
        cut: whether the text ended because no more of it could be made, rather than because it was complete.
    """

    def __init__(self, text: str = "", ended: bool = False) -> None:
        self._text, self._at, self._ended = text, 0, ended
        self._kept: list[str] | None = None
        self.cut = False

    def push(self, text: str) -> None:
        """More text; all before it has been read."""
        self._text, self._at = self._text[self._at :] + text, 0

    def end(self, cut: bool) -> None:
        """No more text comes."""
        self._ended, self.cut = True, cut

    def peek(self) -> Steps[str]:
        """The next character, which stays; empty at the end."""
        while self._at == len(self._text):
            if self._ended:
                return ""
            yield
        return self._text[self._at]

    def take(self) -> str:
        """The next character, which `peek` has seen."""
        return self._advance(self._at + 1)

    def run(self, pattern: re.Pattern[str]) -> str:
        """What `pattern` matches of the text that is there; perhaps nothing."""
        found = pattern.match(self._text, self._at)
        return self._advance(found.end()) if found else ""

    def space(self) -> Steps[str]:
        """Skip white space; the character behind it, which stays."""
        while True:
            char = yield from self.peek()
            if not self.run(_SPACE):
                return char

    def keep(self, before: str) -> None:
        """Remember what is taken from here on, behind `before`, in case it turns out to be text."""
        self._kept = [before]

    def kept(self) -> str:
        """What was taken since `keep`; the memory ends."""
        kept, self._kept = self._kept, None
        return "".join(kept or ())

    def _advance(self, end: int) -> str:
        taken, self._at = self._text[self._at : end], end
        if self._kept is not None:
            self._kept.append(taken)
        return taken


def run_through(parser: Steps[T]) -> T:
    """The result of a parser whose source has ended."""
    while True:
        try:
            next(parser)
        except StopIteration as done:
            result: T = done.value
            return result
