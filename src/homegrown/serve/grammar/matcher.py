"""Where an answer stands in its grammar."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from llguidance import LLMatcher

from homegrown.serve.grammar.errors import GrammarError, explained

Result = TypeVar("Result")


class Matcher:
    """One answer's way through a grammar.

    Matchers of the same grammar share a lexer whose states grow with use, up to a limit, and never go. When a matcher
    meets the limit it is made anew from the grammar's text and goes on from the same place; only an answer that reaches
    the limit by itself fails.

    Args:
        inner: at the beginning.
        ends: ids of end tokens.
        renew: makes another of the same grammar that shares nothing.
    """

    def __init__(self, inner: LLMatcher, ends: Collection[int], renew: Callable[[], LLMatcher]) -> None:
        self._inner, self._ends, self._renew, self._renewed = inner, ends, renew, False
        self._tokens: list[int] = []

    @property
    def accepting(self) -> bool:
        """Whether the answer may end here."""
        return self._inner.is_accepting()

    def bits(self) -> bytes:
        """Which tokens may come next: bit `i % 8` of byte `i // 8` for id `i`, padded with zeros.

        Raises:
            GrammarError: the grammar is too complex to go on.
        """
        return self._tried(lambda: self._inner.compute_bitmask())

    def allows(self, token: int) -> bool:
        """Whether a token may come next.

        Raises:
            GrammarError: the grammar is too complex to tell.
        """
        # A matcher that can only end validates nothing, but takes an end token.
        return self._tried(
            lambda: self._inner.validate_tokens([token]) == 1 or (self._inner.is_stopped() and token in self._ends)
        )

    def advance(self, token: int) -> None:
        """Take a token.

        Raises:
            GrammarError: it may not come next (the matcher stays where it is), or the grammar is too complex to go on.
        """
        if not self.allows(token):
            raise GrammarError(f"grammar: token {token} may not follow here")
        self._tried(lambda: self._inner.consume_token(token))
        self._tokens.append(token)

    def _tried(self, step: Callable[[], Result]) -> Result:
        """A step's result; where it fails, that of the same step on a matcher made anew, once."""
        result = step()
        if self._inner.is_error() and not self._renewed:
            self._renewed = True
            self._inner = self._renew()
            self._inner.consume_tokens(self._tokens)
            result = step()
        if self._inner.is_error():
            raise GrammarError(f"grammar: the answer cannot go on: {explained(self._inner.get_error())}")
        return result
