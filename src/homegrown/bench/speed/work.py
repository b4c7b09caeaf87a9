"""What a pass of a model needs at least: FLOPs of the cheapest known way, bytes that must be read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from homegrown.config import ModelConfig
from homegrown.model import Longcat, count
from homegrown.model.context import owner_slots
from homegrown.model.int8 import footprints
from homegrown.model.router import Routing

FORMULA = (
    "FLOPs: 2 per active parameter and token (real experts as they were chosen; the unembedding for the tokens whose "
    "logits are made; embedding rows are looked up), per visible key, sublayer and head 2 (key width + value width), "
    "of expanded keys in a prompt and of latents in decoding, with sparse attention over chosen keys only and 2 (index "
    "width + 1) per visible key, index head and owner for choosing them. Bytes: weights that are touched, once (of the "
    "experts those that were chosen), embedding rows, and the keys that are seen"
)


@dataclass(frozen=True)
class Work:
    """FLOPs and bytes of a pass."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights as they lie in memory.

    Attributes:
        always: read in every pass: attention, norms, dense FFNs, routers, unembedding.
        expert: of one routed expert of one layer.
        row: of a token's embedding rows.
    """

    always: float
    expert: float
    row: float


def weights_of(model: Longcat) -> Weights:
    """Sizes in whatever precision the weights have; the draft head is not counted."""
    config = model.config
    sizes = {name: taken.bytes for name, taken in footprints(model).items() if not name.startswith("mtp.")}
    experts = sum(size for name, size in sizes.items() if ".mlp.experts." in name)
    words = sum(size for name, size in sizes.items() if name.startswith("embed_tokens."))
    tables = sum(size for name, size in sizes.items() if name.endswith(".table"))
    row = words / config.vocab_size
    return Weights(
        always=sum(sizes.values()) - experts - words - tables,
        expert=experts / (config.num_layers * config.n_routed_experts),
        row=2 * row if tables else row,  # the n-gram tables' rows are together as wide as a word's
    )


@dataclass(frozen=True)
class Chosen:
    """Experts that a pass used.

    Attributes:
        distinct: real experts that any token chose, summed over layers.
        per_token: real experts a token was given, mean over tokens and layers.
    """

    distinct: float
    per_token: float


def chosen(config: ModelConfig, routing: Sequence[Routing]) -> Chosen:
    """From the routing of every layer that a pass reports."""
    distinct = per_token = 0.0
    for layer in routing:
        real = layer.index_NK[layer.index_NK < config.n_routed_experts]
        distinct += real.unique().numel()
        per_token += real.numel() / layer.index_NK.shape[0]
    return Chosen(distinct, per_token / max(len(routing), 1))


def joined(parts: Sequence[Sequence[Routing]]) -> list[Routing]:
    """The routing of several passes as if they had been one; only the chosen experts are."""
    return [
        layers[0]._replace(index_NK=torch.cat([part.index_NK for part in layers]))
        for layers in zip(*parts, strict=True)
    ]


def prefill_work(config: ModelConfig, weights: Weights, tokens: int, used: Chosen) -> Work:
    """One prompt of so many tokens, from nothing; logits of its last token."""
    pairs = _pairs(tokens, config.sparse.topk)
    per_key = 2 * config.num_attention_heads * (config.qk_head_dim + config.v_head_dim)
    flops = tokens * 2 * _matrices(config, used) + 2 * config.vocab_size * config.hidden_size
    flops += config.attention_sublayers * per_key * pairs + _choosing(config, tokens * (tokens + 1) / 2)
    return Work(flops, weights.always + used.distinct * weights.expert + tokens * weights.row)


def decode_work(
    config: ModelConfig, weights: Weights, batch: int, context: int, used: Chosen, key_type: torch.dtype
) -> Work:
    """One step of `batch` sequences, each of which sees `context` keys, its own included."""
    seen = min(context, config.sparse.topk or context)
    per_key = 2 * config.num_attention_heads * (2 * config.kv_lora_rank + config.qk_rope_head_dim)
    flops = 2.0 * batch * (_matrices(config, used) + config.vocab_size * config.hidden_size)
    flops += batch * config.attention_sublayers * per_key * seen
    size = weights.always + used.distinct * weights.expert + batch * weights.row
    keys = config.attention_sublayers * seen * (config.kv_lora_rank + config.qk_rope_head_dim)
    if seen < context:
        flops += _choosing(config, batch * context)
        keys += _owners(config) * context * config.sparse.head_dim
    return Work(flops, size + batch * keys * key_type.itemsize)


def _matrices(config: ModelConfig, used: Chosen) -> float:
    """Parameters that a token is multiplied with, the unembedding left out."""
    return count(config).active(used.per_token) - config.vocab_size * config.hidden_size


def _pairs(tokens: int, budget: int) -> float:
    """Pairs of a query and a key it attends to."""
    full = min(tokens, budget) if budget else tokens
    return full * (full + 1) / 2 + (tokens - full) * full


def _choosing(config: ModelConfig, pairs: float) -> float:
    """FLOPs of scoring so many pairs, in all owners."""
    return _owners(config) * config.sparse.heads * 2 * (config.sparse.head_dim + 1) * pairs


def _owners(config: ModelConfig) -> int:
    return sum(slot < config.attention_sublayers for slot in owner_slots(config))
