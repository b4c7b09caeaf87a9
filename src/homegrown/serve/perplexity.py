"""What rounding weights does to a model's predictions, on some thousands of tokens of real text."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from homegrown.data import Intake, open_corpus
from homegrown.data.errors import CorpusError
from homegrown.model import Longcat
from homegrown.tokenizer import Tokenizer

TOKENS = 4096
"""Scored, where time allows."""
WINDOW = 512
"""Tokens that are read together, from a document's beginning or where the last window ended."""
SECONDS = 8.0
"""After this long no further window is begun."""
ROWS = 128
"""Positions whose logits exist at a time."""
STDLIB = "stdlib"


@dataclass(frozen=True)
class Sample:
    """Text to score.

    Attributes:
        name: what it is, in words.
        windows: token ids, each beginning with BOS.
        text_bytes: per window, of the text behind its BOS.
    """

    name: str
    windows: list[list[int]]
    text_bytes: list[int]

    def first(self, count: int) -> Sample:
        """The first windows only."""
        return Sample(self.name, self.windows[:count], self.text_bytes[:count])


@dataclass(frozen=True)
class Score:
    """How well a model predicts a sample.

    Attributes:
        nats: summed cross-entropy.
        tokens: how many were predicted.
        text_bytes: of UTF-8.
        windows: how many were read.
    """

    nats: float
    tokens: int
    text_bytes: int
    windows: int

    @property
    def perplexity(self) -> float:
        """Of a token."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Of text."""
        return self.nats / math.log(2) / self.text_bytes


@dataclass(frozen=True)
class Change:
    """A model as it was stored, and as it is served.

    Attributes:
        sample: what both predicted, in words.
        stored, served: how well.
    """

    sample: str
    stored: Score
    served: Score

    def __str__(self) -> str:
        before, now = self.stored, self.served
        return (
            f"perplexity {before.perplexity:.4g} as stored, {now.perplexity:.4g} as served "
            f"({now.perplexity / before.perplexity - 1:+.2%}); {before.bits_per_byte:.4f} and {now.bits_per_byte:.4f} "
            f"bits a byte ({now.bits_per_byte - before.bits_per_byte:+.4f}); {now.tokens:,} tokens of {self.sample}"
        )


def sample_of(spec: str, tokenizer: Tokenizer, tokens: int = TOKENS) -> Sample:
    """Text to score, the first windows of all documents before the second ones.

    Args:
        spec: a file or folder; or `stdlib`, the sources of this Python's standard library, of which those are taken
            that `homegrown quickstart` holds out from training.
        tokenizer: the model's.
        tokens: how many, about.

    Raises:
        CorpusError: there is no such text.
    """
    documents = (item for item in Intake([open_corpus(spec)]).documents() if item.held or spec != STDLIB)
    # A token is seldom longer than 16 characters, and no document needs to give more than all.
    texts = [item.text[: 16 * tokens] for item in islice(documents, tokens // 16)]
    ids = [document[:tokens] for document in tokenizer.encode_batch(texts, plain=True)]
    longest = max((len(document) for document in ids), default=0)
    places = ((document, start) for start in range(0, longest, WINDOW - 1) for document in ids)
    windows: list[list[int]] = []
    for document, start in places:
        if sum(map(len, windows)) >= tokens:
            break
        if start < len(document):
            windows.append(document[start : start + WINDOW - 1])
    if not windows:
        raise CorpusError(f"{spec}: there is no text to score")
    name = "Python's standard library (held out by the quickstart)" if spec == STDLIB else spec
    sizes = [len(tokenizer.decode_bytes(window)) for window in windows]
    return Sample(name, [[tokenizer.bos_id, *window] for window in windows], sizes)


@torch.inference_mode()
def score(model: Longcat, sample: Sample, seconds: float = math.inf) -> Score:
    """Score a sample, or as many of its windows as can be begun in some seconds; at least one."""
    device, began = model.norm.weight.device, time.monotonic()
    nats, tokens, read = 0.0, 0, 0
    for window in sample.windows:
        if read and time.monotonic() - began > seconds:
            break
        nats += _nats(model, torch.tensor(window, device=device))
        tokens, read = tokens + len(window) - 1, read + 1
    return Score(nats, tokens, sum(sample.text_bytes[:read]), read)


def _nats(model: Longcat, window: Tensor) -> float:
    inputs = window[None, :-1]
    output = model.trunk(inputs, model.context(inputs)).output[0]
    pairs = zip(output.split(ROWS), window[1:].split(ROWS), strict=True)
    parts = [F.cross_entropy(model.logits(rows).float(), targets, reduction="sum") for rows, targets in pairs]
    return float(torch.stack(parts).double().sum())
