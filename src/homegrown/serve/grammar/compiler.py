"""Grammars from text to matchers, within bounds of size, time and memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from threading import Lock

from llguidance import LLMatcher, LLParserLimits

from homegrown.serve.grammar.errors import GrammarError, explained
from homegrown.serve.grammar.matcher import Matcher
from homegrown.serve.grammar.vocabulary import token_trie
from homegrown.tokenizer import Tokenizer

MAX_BYTES = 256 * 1024
"""A grammar's text may have so many; the largest published tool sets have about a tenth."""
SECONDS = 10.0
"""A caller waits so long for a grammar. The limits below keep one to about a second, so this is for the queue."""
LIMITS = LLParserLimits(
    # An enumeration of 10,000 texts passes; `(a{1000}){1000}`, which would else take 0.6 s and 240 MB, ends early.
    initial_lexer_fuel=200_000,
    # 1 to 2 kB each.
    max_lexer_states=20_000,
    # Messages then do not repeat the client's grammar.
    verbose_errors=False,
)


class GrammarCompiler:
    """Compiles grammars for one tokenizer, one at a time, and keeps the latest.

    llguidance bounds the work by itself (fuel, items, states, depth; it fetches nothing and catches its own panics), so
    that a compilation always ends and a thread is enough. It leaves the interpreter's lock while it works.

    Args:
        tokenizer: byte-level.
        ends: ids that end an answer; by default the tokenizer's end-of-sequence token.
        kept: compiled grammars kept, least recently used out first.
    """

    def __init__(self, tokenizer: Tokenizer, ends: Collection[int] = (), kept: int = 32) -> None:
        self._ends = frozenset(ends or (tokenizer.eos_id,))
        self._trie = token_trie(tokenizer, self._ends)
        self._kept, self._lock = kept, Lock()
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    def begin(self, lark: str) -> Future[Matcher]:
        """A matcher at the beginning of a grammar, once it is compiled; the future raises as `matcher` does."""
        return self._worker.submit(self._matcher, lark)

    def matcher(self, lark: str) -> Matcher:
        """A matcher at the beginning of a grammar.

        Args:
            lark: in llguidance's dialect; special tokens as `<name>`.

        Raises:
            GrammarError: the grammar is wrong, allows nothing, is too large, or takes too long.
        """
        future = self.begin(lark)
        try:
            return future.result(SECONDS)
        except TimeoutError:
            future.cancel()
            raise GrammarError(f"grammar: not compiled within {SECONDS:g} s; a simpler one would be") from None

    def _matcher(self, lark: str) -> Matcher:
        with self._lock:
            found = self._compiled.get(lark)
            if found is not None:
                self._compiled.move_to_end(lark)
        inner = self._compile(lark) if found is None else found
        return Matcher(inner.deep_copy(), self._ends, lambda: self._compile(lark).deep_copy())

    def _compile(self, lark: str) -> LLMatcher:
        """Compile, and keep in the place of what was there. The first mask is computed, for it costs the most."""
        _check_size(lark)
        inner = LLMatcher(self._trie, lark, log_level=0, limits=LIMITS)
        allowed = b"" if inner.is_error() else inner.compute_bitmask()
        if inner.is_error():
            raise GrammarError(f"grammar: {explained(inner.get_error())}")
        if not any(allowed):
            raise GrammarError("grammar: it allows no token to begin with")
        with self._lock:
            self._compiled[lark] = inner
            self._compiled.move_to_end(lark)
            while len(self._compiled) > self._kept:
                self._compiled.popitem(last=False)
        return inner


def check_grammar(tokenizer: Tokenizer, lark: str) -> None:
    """Refuse a grammar that the engine would refuse. Blocks for milliseconds, at worst for `SECONDS`.

    Raises:
        GrammarError: as `GrammarCompiler.matcher`.
    """
    _compiler(tokenizer).matcher(lark)


@lru_cache(maxsize=2)
def _compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer)


def _check_size(lark: str) -> None:
    try:
        size = len(lark.encode())
    except UnicodeEncodeError as error:
        raise GrammarError(f"grammar: not Unicode text: {error}") from None
    if size > MAX_BYTES:
        raise GrammarError(f"grammar: {size:,} bytes of text; at most {MAX_BYTES:,} are taken")
