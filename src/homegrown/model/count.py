"""Parameters, total and active, counted from the model itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from homegrown.config import ModelConfig
from homegrown.model.longcat import Longcat


@dataclass(frozen=True)
class ParameterCount:
    """How many numbers a model holds and uses.

    Attributes:
        total: all of them without the draft head, the router's correction bias included.
        mtp: the draft head (embedding and unembedding are the model's own).
        base: active with no real expert chosen: attention, norms, dense FFNs, routers, indexers, unembedding. Input
            embeddings and n-gram rows are looked up, not multiplied, and do not count.
        expert: one routed expert.
        layers: logical layers, each with its own choice of experts.
    """

    total: int
    mtp: int
    base: int
    expert: int
    layers: int

    def active(self, real_experts: float) -> float:
        """Active parameters of a token that is given `real_experts` real experts in every layer."""
        return self.base + real_experts * self.layers * self.expert


def count(config: ModelConfig) -> ParameterCount:
    """Count the parameters of a model built on the meta device: exact, and instant at any size."""
    with torch.device("meta"):
        model = Longcat(config)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    sizes |= {name: buffer.numel() for name, buffer in model.named_buffers()}
    mtp = sum(size for name, size in sizes.items() if name.startswith("mtp."))
    total = sum(sizes.values()) - mtp
    experts = sum(size for name, size in sizes.items() if ".mlp.experts." in name)
    looked_up = sum(size for name, size in sizes.items() if name.startswith(("embed_tokens.", "ngram_embeddings.")))
    expert = experts // (config.num_layers * config.n_routed_experts)
    return ParameterCount(total, mtp, total - experts - looked_up, expert, config.num_layers)


def training_flops(
    config: ModelConfig, counted: ParameterCount, tokens: int, seq_len: int, real_experts: float, draft_steps: int = 0
) -> float:
    """FLOPs of forward and backward over `tokens` tokens, recomputation not counted (model FLOPs).

    Each active parameter costs 2 FLOPs forward and 4 backward. A causal query of a sequence of S tokens sees S / 2 keys
    on average; per key, sublayer and head it costs 2 (query width + value width) forward and twice that backward.
    Indexer scoring is not counted. A draft step costs the draft block, the unembedding and one more attention sublayer.
    """
    head = config.vocab_size * config.hidden_size
    matrices = counted.active(real_experts) + draft_steps * (counted.mtp + head)
    per_key = 6 * config.num_attention_heads * (config.qk_head_dim + config.v_head_dim)
    sublayers = config.attention_sublayers + draft_steps
    return tokens * (6 * matrices + sublayers * per_key * seq_len / 2)
