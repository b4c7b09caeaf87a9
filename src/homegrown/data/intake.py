"""The documents of some corpora, without duplicates, each for training or held out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

import msgspec

from homegrown.data.corpus import Corpus
from homegrown.data.documents import Document, Skipped
from homegrown.data.errors import CorpusError


@dataclass(frozen=True)
class Accepted:
    """A document that counts."""

    source: str
    text: str
    text_bytes: int
    """Length of the text in UTF-8."""
    digest: bytes
    """16 bytes of its content's BLAKE2b hash."""
    held: bool
    """Held out: neither the model nor the tokenizer may see it."""


@dataclass
class SkipLog:
    """Counts what was left out by reason, remembers a few, writes all to a file if there is one."""

    file: IO[str] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    examples: list[Skipped] = field(default_factory=list)

    def add(self, skipped: Skipped) -> None:
        """Record one."""
        self.counts[skipped.reason] += 1
        if len(self.examples) < 5 and skipped.reason not in ("duplicate", "empty"):
            self.examples.append(skipped)
        if self.file is not None:
            self.file.write(msgspec.json.encode(skipped).decode() + "\n")

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.counts.items())) or "nothing"


class Intake:
    """Documents in corpus order, duplicates removed, split by content.

    Whether a document is held out depends on its content and the seed alone: not on its name, its place, or what else
    there is. Everything streams; memory grows only by the 16-byte digests (about 100 bytes a document in Python) that
    find duplicates.

    Args:
        corpora: where the text comes from.
        held_fraction: share of documents held out, by hash.
        seed: another seed holds out other documents.
        deduplicate: drop documents whose content came before.
    """

    def __init__(
        self, corpora: Sequence[Corpus], *, held_fraction: float = 0.05, seed: int = 0, deduplicate: bool = True
    ) -> None:
        if not 0 <= held_fraction < 1:
            raise CorpusError(f"held fraction {held_fraction}: must be at least 0 and below 1")
        self.corpora = list(corpora)
        self.held_fraction = held_fraction
        self.seed = seed
        self.deduplicate = deduplicate

    @property
    def text_bytes(self) -> int | None:
        """Bytes of text to expect, None if unknown."""
        sizes = [corpus.text_bytes for corpus in self.corpora]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def documents(self, skips: SkipLog | None = None) -> Iterator[Accepted]:
        """Read the corpora once.

        Args:
            skips: told of everything left out.

        Raises:
            CorpusError: nothing was left of it all; the message counts why.
        """
        skips = SkipLog() if skips is None else skips
        seen: set[bytes] = set()
        accepted = 0
        for item in (item for corpus in self.corpora for item in corpus):
            document = self._judge(item, seen)
            if isinstance(document, Skipped):
                skips.add(document)
            else:
                accepted += 1
                yield document
        if not accepted:
            names = ", ".join(corpus.name for corpus in self.corpora) or "no corpus"
            example = "".join(f"; {skip.source}: {skip.reason} {skip.detail}".rstrip() for skip in skips.examples[:1])
            raise CorpusError(f"{names}: no documents (left out: {skips}{example})")

    def _judge(self, item: Document | Skipped, seen: set[bytes]) -> Accepted | Skipped:
        if isinstance(item, Skipped):
            return item
        try:
            data = item.text.encode()
        except UnicodeEncodeError as error:
            return Skipped(item.source, "not Unicode", str(error))
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if digest in seen:
            return Skipped(item.source, "duplicate")
        if self.deduplicate:
            seen.add(digest)
        return Accepted(item.source, item.text, len(data), digest, self._is_held(digest))

    def _is_held(self, digest: bytes) -> bool:
        return draw(digest, "held-out", self.seed) < self.held_fraction


def draw(digest: bytes, purpose: str, seed: int) -> float:
    """A number in [0, 1) that a document's content decides, independent for each purpose and seed."""
    value = hashlib.blake2b(digest, digest_size=8, key=f"{purpose}:{seed}".encode()).digest()
    return int.from_bytes(value, "little") / 2**64
