"""A tokenizer from the training documents of an intake."""

from __future__ import annotations

import heapq

from homegrown.data.errors import CorpusError
from homegrown.data.intake import Intake, draw
from homegrown.data.progress import Progress, Silent
from homegrown.tokenizer import Tokenizer, train_tokenizer

SAMPLE_BYTES = 32 * 2**20
"""Default amount of text a tokenizer is trained on; more hardly changes the merges of small vocabularies."""


def tokenizer_for(
    intake: Intake, vocab_size: int, *, sample_bytes: int = SAMPLE_BYTES, progress: Progress | None = None
) -> Tokenizer:
    """Train a tokenizer on the intake's training documents; held-out ones are never looked at.

    Args:
        intake: the documents; read once.
        vocab_size: ids wanted. A small corpus may give fewer.
        sample_bytes: at most this much text, whole documents, chosen by content hash so that the choice does not
            depend on the order of the corpus. Memory is bounded by it.
        progress: told of the stages.

    Raises:
        CorpusError: there are no training documents.
        TokenizerError: the vocabulary is too small.
    """
    progress = progress or Silent()
    progress.stage("tokenizer: reading", intake.text_bytes)
    sample = _sample(intake, sample_bytes, progress)
    if not sample:
        raise CorpusError("every document is held out, none is left for training: lower the held-out fraction")
    progress.stage(f"tokenizer: {vocab_size:,} ids", None)
    return train_tokenizer(sample, vocab_size)


def _sample(intake: Intake, limit: int, progress: Progress) -> list[str]:
    """The training documents with the smallest draws that fit into `limit` bytes, at least one."""
    kept: list[tuple[float, int, int, str]] = []  # a heap, largest draw first: (-draw, order, bytes, text)
    total = 0
    for order, document in enumerate(intake.documents()):
        progress.advance(1, document.text_bytes)
        if document.held:
            continue
        heapq.heappush(
            kept, (-draw(document.digest, "tokenizer", intake.seed), order, document.text_bytes, document.text)
        )
        total += document.text_bytes
        while total > limit and len(kept) > 1:
            total -= heapq.heappop(kept)[2]
    return [text for _, _, _, text in sorted(kept, key=lambda entry: entry[1])]
