"""A tokenizer as llguidance wants it: the bytes of every id, and which ids are no text."""

from __future__ import annotations

from collections.abc import Collection

from llguidance import LLTokenizer, TokenizerWrapper

from homegrown.tokenizer import Tokenizer


class _Vocabulary:
    """The attributes that `TokenizerWrapper` reads.

    Added tokens are special: a grammar reaches them by name (`<longcat_tool_call>`) and never through text that
    happens to spell them, so that a string in a grammar cannot let a model end its turn or forge a boundary.
    """

    def __init__(self, tokenizer: Tokenizer, ends: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = min(ends)
        self.bos_token_id = tokenizer.bos_id
        self.tokens = [tokenizer.decode_bytes((token,)) for token in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.added_tokens.values())

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, plain=True)


def token_trie(tokenizer: Tokenizer, ends: Collection[int]) -> LLTokenizer:
    """llguidance's view of a tokenizer; takes about a third of a second for 131,072 ids.

    Args:
        tokenizer: byte-level.
        ends: ids that end an answer, at least one; allowed exactly where a grammar accepts.
    """
    return LLTokenizer(TokenizerWrapper(_Vocabulary(tokenizer, ends)), eos_token=sorted(ends))
