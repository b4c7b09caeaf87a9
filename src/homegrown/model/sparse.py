"""The indexer of LongCat Sparse Attention (arXiv 2608.01662)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from homegrown import ops
from homegrown.config import ModelConfig
from homegrown.model.layers import LayerNorm, Linear, RMSNorm


@dataclass(frozen=True)
class IndexInput:
    """What scores keys: index queries [B, S, J, D], keys [B, S, D] and head weights [B, S, J]."""

    query: Tensor
    key: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Selection:
    """An owner's choice of keys, handed to the sublayers that reuse it.

    Attributes:
        positions: int64 [B, S, K] key positions, −1 unused; `None` while all visible keys fit the budget.
        index: what the choice was scored from, for the indexer's loss.
    """

    positions: Tensor | None
    index: IndexInput


class Indexer(nn.Module):
    """Small queries and one small key per token, whose ReLU products rank the keys.

    Its inputs are detached: the indexer learns from its own loss only, and the base model never from that loss.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sparse = config.sparse
        self.config, self.rope_width = sparse, config.qk_rope_head_dim
        self.wq_b = Linear(config.q_lora_rank, sparse.heads * sparse.head_dim)
        self.wk = Linear(config.hidden_size, sparse.head_dim)
        norm = RMSNorm if sparse.k_norm == "rms" else LayerNorm
        self.k_norm = norm(sparse.head_dim, sparse.k_norm_eps)
        self.weights_proj = Linear(config.hidden_size, sparse.heads)

    def forward(self, x_BSH: Tensor, q_latent: Tensor, cos: Tensor, sin: Tensor) -> IndexInput:
        """Index queries, keys and weights of the tokens.

        Args:
            x_BSH: the attention sublayer's normed input.
            q_latent: [B, S, rq] the normed query latent.
            cos, sin: [B, S, R / 2] rotary tables.
        """
        x, q_latent = x_BSH.detach(), q_latent.detach()
        query = self.wq_b(q_latent).unflatten(-1, (self.config.heads, self.config.head_dim))
        key = self.k_norm(self.wk(x))
        wide = torch.promote_types(x.dtype, torch.float32)
        weight = ops.linear(ops.recomputable(torch.Tensor.to, x, wide), self.weights_proj.weight.to(wide))
        if self.config.scale_scores:
            weight = weight * (self.config.heads**-0.5 * self.config.head_dim**-0.5)
        return IndexInput(self._rotate(query, cos[:, :, None], sin[:, :, None]), self._rotate(key, cos, sin), weight)

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rotated = ops.rotary(x[..., : self.rope_width], cos, sin, self.config.rope_interleaved)
        return torch.cat((rotated, x[..., self.rope_width :]), dim=-1)
