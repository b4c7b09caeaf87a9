"""A tiny model of the full LongCat-2.0 architecture and batches for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from homegrown.config import ModelConfig, MtpConfig, NgramConfig, SparseConfig
from tests.model.twin import YARN, tiny

NGRAM = NgramConfig(order=3, splits=2, ratio=3.3)
# 16 index heads: with few, ReLU makes many scores exactly zero and the choice among ties would be all that differs.
SPARSE = SparseConfig(topk=10, heads=16, head_dim=12, init_tokens=2, local_tokens=3)
MTP = MtpConfig(layers=1, steps=3)


def small(**changes: Any) -> ModelConfig:
    """Every part of LongCat-2.0: n-grams, YaRN, LSA with cross-layer reuse, zero experts, three draft steps.

    `ngram`, `sparse`, `mtp` and `rope` may be given as dicts of changes to this model's own.
    """
    parts: dict[str, Any] = {"ngram": NGRAM, "sparse": SPARSE, "mtp": MTP, "rope": YARN}
    for name, value in changes.items():
        parts[name] = replace(parts[name], **value) if isinstance(value, dict) else value
    return tiny(**parts)


def batch(config: ModelConfig, rows: int, length: int, seed: int, packed: bool = False) -> tuple[Tensor, Tensor]:
    """Random tokens and document starts, both int64 [rows, length].

    End-of-sequence tokens are scattered about. Packed rows hold several documents, from one token long, each ended by
    EOS; the first may have begun before the row.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, config.vocab_size, (rows, length), generator=generator)
    tokens[torch.rand(rows, length, generator=generator) < 0.05] = config.eos_token_id
    first = torch.zeros_like(tokens)
    if packed:
        for row in range(rows):
            starts = sorted({int(s) for s in torch.randint(1, length, (3,), generator=generator)} | {length // 2 + row})
            for start in [*starts, starts[0] + 1]:
                if start < length:
                    tokens[row, start - 1] = config.eos_token_id
                    first[row, start:] = torch.maximum(first[row, start:], torch.tensor(start))
    return tokens, first
