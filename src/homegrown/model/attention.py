"""Multi-head latent attention with scale correction (arXiv 2405.04434 section 2.1, arXiv 2509.01322 section 2.3.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from homegrown import ops
from homegrown.config import ModelConfig
from homegrown.model.context import Context, Queries
from homegrown.model.layers import Linear, RMSNorm
from homegrown.model.rope import softmax_scale
from homegrown.model.sparse import Indexer, Selection


class LatentAttention(nn.Module):
    """One attention sublayer.

    Args:
        config: the model.
        slot: its number among the attention sublayers; names its keys in a context.
        owner: whether it owns an indexer and chooses keys for itself and the sublayers after it.
    """

    def __init__(self, config: ModelConfig, slot: int, owner: bool) -> None:
        super().__init__()
        self.config, self.slot = config, slot
        hidden, heads, latent = config.hidden_size, config.num_attention_heads, config.kv_lora_rank
        self.q_a_proj = Linear(hidden, config.q_lora_rank)
        self.q_a_layernorm = RMSNorm(config.q_lora_rank, config.latent_norm_eps)
        self.q_b_proj = Linear(config.q_lora_rank, heads * config.qk_head_dim)
        self.kv_a_proj_with_mqa = Linear(hidden, latent + config.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(latent, config.latent_norm_eps)
        self.kv_b_proj = Linear(latent, heads * (config.qk_nope_head_dim + config.v_head_dim))
        self.o_proj = Linear(heads * config.v_head_dim, hidden)
        self.indexer = Indexer(config) if owner else None
        self.key_scale = math.sqrt(hidden / latent) if config.mla_scale_kv_lora else 1.0
        # The queries' correction sqrt(H / rq) multiplies every score, so it joins the softmax scale.
        query_scale = math.sqrt(hidden / config.q_lora_rank) if config.mla_scale_q_lora else 1.0
        self.scale = softmax_scale(config.rope, config.qk_head_dim) * query_scale

    def forward(
        self, x_BSH: Tensor, context: Context, shared: Selection | None
    ) -> tuple[Tensor, Selection | None, Tensor | None]:
        """Attend.

        Args:
            x_BSH: normed input.
            context: where keys live.
            shared: the selection to reuse: an earlier owner's, or an earlier draft step's. An owner in the main
                model is handed `None` and chooses anew.

        Returns:
            output [B, S, H]; the selection used, for later sublayers; the indexer's loss for this sublayer or `None`.
        """
        config = self.config
        cos, sin = context.rotation()
        q_latent = self.q_a_layernorm(self.q_a_proj(x_BSH))
        q = self.q_b_proj(q_latent).unflatten(-1, (-1, config.qk_head_dim))
        q_nope, q_rope = q.split((config.qk_nope_head_dim, config.qk_rope_head_dim), dim=-1)
        q = torch.cat((q_nope, ops.rotary(q_rope, cos[:, :, None], sin[:, :, None])), dim=-1)
        latent, rope_key = self.kv_a_proj_with_mqa(x_BSH).split((config.kv_lora_rank, config.qk_rope_head_dim), dim=-1)
        latent = self.kv_a_layernorm(latent, scale=self.key_scale)
        kv_b = self.kv_b_proj.weight.unflatten(0, (-1, config.qk_nope_head_dim + config.v_head_dim))
        queries = Queries(q, latent, ops.rotary(rope_key, cos, sin), kv_b, self.scale)
        if self.indexer is not None and shared is None and context.wants_index():
            shared = context.select(self.slot, self.indexer(x_BSH, q_latent, cos, sin))
        out, loss = context.attend(self.slot, queries, shared)
        return self.o_proj(out.flatten(2)), shared, loss
