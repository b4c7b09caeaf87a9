"""Held-out score: bits per byte of whole documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from homegrown.data import Split
from homegrown.model import Longcat


@dataclass(frozen=True)
class Score:
    """How well a model predicts a split.

    Attributes:
        nats: summed cross-entropy of every token after the first of each document, the end token included.
        tokens: how many were predicted.
        text_bytes: UTF-8 bytes of the documents' text.
        documents: how many documents.
    """

    nats: float
    tokens: int
    text_bytes: int
    documents: int

    @property
    def bits_per_byte(self) -> float:
        """Total bits over total bytes: the figure that compares with a compressor's output."""
        return self.nats / math.log(2) / max(1, self.text_bytes)

    @property
    def nats_per_token(self) -> float:
        """Mean cross-entropy."""
        return self.nats / max(1, self.tokens)


@dataclass(frozen=True)
class _Window:
    """Tokens start..stop of a document, of which those from `score_from` on are scored; `of`, its scored tokens."""

    document: int
    start: int
    stop: int
    score_from: int
    of: int

    @property
    def scored(self) -> int:
        """How many tokens it scores."""
        return self.stop - self.score_from


ROWS = 8
"""Windows of a pass."""

Scorer = Callable[[Tensor, Tensor], Tensor]
"""(tokens [B, L + 1], target [B, L]), both int64 and on the host -> summed cross-entropy in nats of the targets that
are not −1. Rows are documents, or windows of them, from their first token; what follows a row's last target is
filling."""


def scorer_of(model: Longcat) -> Scorer:
    """Scores with a whole model, as it is, in its own dtype; cross-entropies are taken in float32."""

    def score(tokens: Tensor, target: Tensor) -> Tensor:
        device = model.norm.weight.device
        inputs = tokens[:, :-1].to(device)
        output = model.trunk(inputs, model.context(inputs)).output
        return model.lm_head.cross_entropy(output.flatten(0, 1), target.flatten().to(device))

    return score


def evaluate(
    scorer: Scorer,
    split: Split,
    seq_len: int,
    *,
    max_tokens: int = 0,
    rows: int = ROWS,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Score:
    """Score a split, every token exactly once.

    A document longer than `seq_len` is read in windows that overlap by half, so that each token but a document's first
    ones sees at least seq_len / 2 tokens before it.

    Args:
        scorer: what scores windows; `scorer_of` a model.
        split: documents, each from its BOS to its EOS token.
        seq_len: window length in tokens.
        max_tokens: score at most about this many tokens, in windows spread evenly over the split, a document's bytes
            being shared out over its tokens; 0 scores the whole split.
        rows: windows per forward pass.
        progress: called with the number of tokens scored after each pass.
    """
    windows = _windows(split, seq_len)
    if max_tokens:
        every = -(-sum(window.scored for window in windows) // max_tokens)
        windows = windows[every // 2 :: every] or windows[:1]
    text_bytes = sum(split.document_bytes(window.document) * window.scored / window.of for window in windows)
    documents = len({window.document for window in windows})
    # Windows of like length share a pass, so that little is padded; the order is fixed.
    windows.sort(key=lambda window: (window.start - window.stop, window.document, window.start))
    parts, scored = [], 0
    with torch.no_grad():
        for batch in _batched(windows, rows):
            tokens, target = _rows(split, batch)
            parts.append(scorer(tokens, target).to(torch.float64))
            scored += (count := int((target >= 0).sum()))
            progress(count)
    return Score(float(torch.stack(parts).sum()) if parts else 0.0, scored, round(text_bytes), documents)


def _windows(split: Split, seq_len: int) -> list[_Window]:
    windows: list[_Window] = []
    for document in range(split.documents):
        length = len(split.document(document))
        scored = 1
        while scored < length:
            start = 0 if scored == 1 else scored - seq_len // 2
            stop = min(length, start + seq_len + 1)
            windows.append(_Window(document, start, stop, scored, length - 1))
            scored = stop
    return windows


def _batched(windows: list[_Window], rows: int) -> Iterator[list[_Window]]:
    for start in range(0, len(windows), rows):
        yield windows[start : start + rows]


def _rows(split: Split, batch: list[_Window]) -> tuple[Tensor, Tensor]:
    """Tokens [B, L + 1] and targets [B, L] of windows side by side."""
    longest = max(window.stop - window.start for window in batch)
    tokens = torch.full((len(batch), longest), split.bos_id)
    target = torch.full((len(batch), longest - 1), -1)
    for row, window in enumerate(batch):
        ids = torch.from_numpy(split.document(window.document)[window.start : window.stop].astype("int64"))
        tokens[row, : len(ids)] = ids
        skipped = window.score_from - window.start - 1
        target[row, skipped : len(ids) - 1] = ids[skipped + 1 :]
    return tokens, target
