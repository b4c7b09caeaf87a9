"""Rendered conversations to tokens, so that nothing a client wrote can become a special token.

A chat template puts its own tags between texts that clients wrote. Before it runs, every special token's spelling in
those texts is replaced by a word that nobody can guess. Afterwards the result is cut at its special tokens, which are
now all the template's, and what lies between them is encoded as mere characters, with the words turned back.

For texts without such a spelling nothing is replaced: the template sees them as they are, and the tokens are those of
encoding its result as a whole, because a tokenizer cuts at special tokens before it does anything else.
"""

from __future__ import annotations

import re
import secrets
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from homegrown.tokenizer import Tokenizer

MEMORY = 32_000_000
"""Characters of encoded segments that are remembered."""


class Disguise:
    """Hides special tokens in texts that clients wrote.

    Args:
        specials: the tokens.
    """

    def __init__(self, specials: Sequence[str]) -> None:
        self._pattern = alternatives(specials)
        self._longest = max(map(len, specials), default=0)
        self._beginnings = {token[:end] for token in specials for end in range(1, len(token))}
        self._word = f"Quote{secrets.token_hex(16)}n"
        self._spoken = re.compile(self._word + r"(\d+)e")
        self._hidden: list[str] = []

    def hide(self, value: Any) -> Any:
        """The same with every special token in its strings replaced; keys of mappings count as well."""
        if isinstance(value, str):
            return self._hide(value)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(item) for item in value]
        return value

    def reveal(self, text: str) -> str:
        """A text with what was hidden."""
        return self._spoken.sub(lambda found: self._hidden[int(found[1])], text) if self._hidden else text

    def _hide(self, text: str) -> str:
        text = self._pattern.sub(lambda found: self._replace(found[0]), text)
        # What follows in the template, or in another text, might complete a token that begins at the end.
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if text[-length:] in self._beginnings:
                return text[:-length] + self._replace(text[-length:])
        return text

    def _replace(self, hidden: str) -> str:
        self._hidden.append(hidden)
        return f"{self._word}{len(self._hidden) - 1}e"


class Segments:
    """Encodes texts whose special tokens all count, segment by segment.

    What was encoded lately is remembered: a conversation that grows is encoded anew only where it grew.

    Args:
        tokenizer: encodes.
        memory: characters of segments to remember.
    """

    def __init__(self, tokenizer: Tokenizer, memory: int = MEMORY) -> None:
        self._tokenizer, self._limit = tokenizer, memory
        self._added = tokenizer.added_tokens
        self._pattern = alternatives(list(self._added), group=True)
        self._known: OrderedDict[str, array[int]] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def encode(self, text: str, disguise: Disguise) -> list[int]:
        """The ids of a rendered text, with what is hidden in it as mere characters."""
        parts = self._pattern.split(text)
        segments = [disguise.reveal(part) for part in parts[::2]]
        plain = self._encode(segments)
        ids = list(plain[segments[0]])
        for special, segment in zip(parts[1::2], segments[1:], strict=True):
            ids.append(self._added[special])
            ids += plain[segment]
        return ids

    def _encode(self, segments: Sequence[str]) -> Mapping[str, Sequence[int]]:
        with self._lock:
            found = {segment: ids for segment in segments if (ids := self._known.get(segment)) is not None}
            for segment in found:
                self._known.move_to_end(segment)
        missing = list(dict.fromkeys(segment for segment in segments if segment not in found))
        # Four bytes an id; as a list of numbers each would take up to 40, and a server keeps them as long as it runs.
        encoded = (array("I", ids) for ids in self._tokenizer.encode_batch(missing, plain=True))
        new = dict(zip(missing, encoded, strict=True))
        with self._lock:
            self._remember(new)
        return found | new

    def _remember(self, new: Mapping[str, array[int]]) -> None:
        for segment, ids in new.items():
            if segment not in self._known:
                self._known[segment] = ids
                self._size += len(segment) + 1
        while self._size > self._limit:
            segment, _ = self._known.popitem(last=False)
            self._size -= len(segment) + 1


def alternatives(tokens: Sequence[str], group: bool = False) -> re.Pattern[str]:
    """A pattern of any of these, the longest that fits, as tokenizers match them."""
    longest_first = sorted(tokens, key=len, reverse=True)
    pattern = "|".join(map(re.escape, longest_first)) or r"(?!)"
    return re.compile(f"({pattern})" if group else pattern)
