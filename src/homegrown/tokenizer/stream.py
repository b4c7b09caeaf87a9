"""Text from a stream of token ids, as soon as its bytes are whole characters."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TokenStream:
    """Incremental detokenizer: constant work a token, whatever came before.

    A token may end in the middle of a character; its bytes wait until the character is whole. The pieces joined, plus
    `flush()`, equal the decoding of all ids at once, invalid bytes included (each maximal invalid sequence becomes
    one U+FFFD, as in the Unicode standard, section 3.9).
    """

    def __init__(self, table: Sequence[bytes], skipped: frozenset[int] = frozenset()) -> None:
        self._table = table
        self._skipped = skipped
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that `token` completes; often one word, sometimes nothing yet."""
        if token in self._skipped:
            return ""
        return self._decoder.decode(token_bytes(self._table, token))

    def flush(self) -> str:
        """What is still pending at the end, as U+FFFD; the stream is then as new."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def token_bytes(table: Sequence[bytes], token: int) -> bytes:
    """The bytes of one id.

    An id past the table decodes to nothing: published models have more embedding rows than their tokenizer has
    tokens, and an untrained one may well sample from the surplus.
    """
    if token < 0:
        raise ValueError(f"token id {token}: ids are not negative")
    return table[token] if token < len(table) else b""
