"""Where an answer stands in its grammar."""

from __future__ import annotations

from collections.abc import Callable

from llguidance import LLMatcher

from homegrown.serve.grammar.errors import GrammarError, explained


class Matcher:
    """One answer's way through a grammar.

    Matchers of the same grammar share a lexer whose states grow with use, up to a limit, and never go. When a matcher
    meets the limit it is made anew from the grammar's text and goes on from the same place; only an answer that reaches
    the limit by itself fails.

    Args:
        inner: at the beginning.
        renew: makes another of the same grammar that shares nothing.
    """

    def __init__(self, inner: LLMatcher, renew: Callable[[], LLMatcher]) -> None:
        self._inner, self._renew, self._renewed = inner, renew, False
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
        bits = self._inner.compute_bitmask()
        if self._inner.is_error():
            self._recover()
            bits = self._inner.compute_bitmask()
            self._check()
        return bits

    def allows(self, token: int) -> bool:
        """Whether a token may come next."""
        return self._inner.validate_tokens([token]) == 1

    def advance(self, token: int) -> None:
        """Take a token.

        Raises:
            GrammarError: it may not come next (the matcher stays where it is), or the grammar is too complex to go on.
        """
        if not self._inner.is_error() and not self.allows(token):
            raise GrammarError(f"grammar: token {token} may not follow here")
        if not self._inner.consume_token(token):
            self._recover()
            self._inner.consume_token(token)
            self._check()
        self._tokens.append(token)

    def _recover(self) -> None:
        if not self._renewed:
            self._renewed = True
            self._inner = self._renew()
            self._inner.consume_tokens(self._tokens)
        self._check()

    def _check(self) -> None:
        if self._inner.is_error():
            raise GrammarError(f"grammar: the answer cannot go on: {explained(self._inner.get_error())}")
