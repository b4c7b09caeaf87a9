"""Hashed n-gram embeddings (arXiv 2601.21204)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homegrown import ops
from homegrown.config import ModelConfig, NgramConfig
from homegrown.model.history import History

Lookup = Callable[[Tensor, Tensor], Tensor]
"""Rows [..., W] of a table [R, W] at int64 ids [...]. The local one is an embedding; a sharded table brings its own."""


def table_sizes(config: NgramConfig, vocab: int) -> list[int]:
    """Rows of each table: M_t = int(ratio · V) + 2t + 1."""
    base = int(config.ratio * vocab)
    return [base + 2 * table + 1 for table in range(config.tables)]


def ngram_ids(tokens: Tensor, config: NgramConfig, vocab: int, eos: int, earlier: Tensor | None = None) -> Tensor:
    """Row of each hash table for each position (section 2 eq. 2).

    Table t = (g − 2) · splits + j hashes the last g tokens:
    id_t(i) = Σ_{δ<g} tok[i − δ] · (V^δ mod M_t) mod M_t. A look-back past the start, or past an end-of-sequence token
    that is not the current one, contributes zero.

    Args:
        tokens: int64 [B, S]; negative numbers mark positions before the sequence began.
        config: orders, splits and sizes.
        vocab: V, the hash base.
        eos: the token that ends a document.
        earlier: int64 [B, S], how many tokens before each one belong to its document; `None` leaves boundaries to
            `eos` and the start.

    Returns:
        int64 [B, S, T], each in [0, M_t).
    """
    sizes = torch.tensor(table_sizes(config, vocab), device=tokens.device)
    power = torch.ones_like(sizes)
    total = tokens.clamp(min=0)[..., None] * power
    alive = tokens >= 0
    order_of_table = torch.arange(config.tables, device=tokens.device) // config.splits + 2
    for back in range(1, config.order):
        older = F.pad(tokens, (back, 0), value=-1)[:, : tokens.shape[1]]
        alive = alive & (older >= 0)
        if earlier is not None:
            alive = alive & (earlier >= back)
        if config.stop_at_eos:
            alive = alive & (older != eos)
        power = power * (vocab % sizes) % sizes
        term = torch.where(alive, older, 0)[..., None] * power
        total = total + torch.where(order_of_table > back, term, 0)
    return total % sizes


class NgramEmbedding(nn.Module):
    """T tables, stacked by rows, and a projection each.

    Attributes:
        lookup: how rows are fetched; replaced from outside when the table is sharded.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        ngram = config.ngram
        self.config, self.vocab, self.eos = ngram, config.vocab_size, config.eos_token_id
        sizes = table_sizes(ngram, config.vocab_size)
        width = config.hidden_size // ngram.tables
        self.table = nn.Parameter(torch.empty(sum(sizes), width))
        self.proj = nn.Parameter(torch.empty(ngram.tables, config.hidden_size, width))
        self.offsets = [sum(sizes[:table]) for table in range(ngram.tables)]
        self.lookup: Lookup = local_lookup

    def forward(self, words: Tensor, history: History) -> Tensor:
        """Fuse the words' rows with the tables' rows.

        Args:
            words: [B, S, H] rows of the word embedding.
            history: the S tokens among those before them.

        Returns:
            [B, S, H]: (word + Σ_t P_t E_t[id_t]) / (1 + T), or word + Σ_t P_t E_t[id_t] / (1 + T) (`residual`).
        """
        ids = ngram_ids(history.tokens, self.config, self.vocab, self.eos, history.place)[:, history.new]
        rows = self.lookup(self.table, ids + torch.tensor(self.offsets, device=ids.device))
        terms = 1 + self.config.tables
        if self.config.accumulate == "sequential":
            total = words if self.config.fusion == "mean" else torch.zeros_like(words)
            for table in range(self.config.tables):
                total = total + ops.linear(rows[:, :, table], self.proj[table])
        else:
            # Σ_t P_t row_t is one product with the projections side by side.
            total = ops.linear(rows.flatten(2), self.proj.transpose(0, 1).flatten(1))
            if self.config.fusion == "mean":
                total = words + total
        return total / terms if self.config.fusion == "mean" else words + total / terms


def local_lookup(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table that is here; its gradient is as large as the table."""
    return F.embedding(ids, table)


def sparse_lookup(table: Tensor, ids: Tensor) -> Tensor:
    """The same rows; the gradient holds only the rows that were looked up, for an optimizer that takes such."""
    return F.embedding(ids, table, sparse=True)
