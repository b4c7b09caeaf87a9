"""Bytes of weights on a device, and of the keys of a token."""

from __future__ import annotations

from homegrown.plan.facts import Attention, Experts, Layers, Shape
from homegrown.plan.serving.setup import WIDTH, Pool, Precision

SCALED = 128
"""Lanes that share a scale of four bytes where keys have eight bits (FlashMLA's layout: 656 bytes for 512 + 64)."""
ROUTER = 4
"""Bytes of a router's weight: it computes in float32."""


def key_bytes(attention: Attention, dtype: str) -> float:
    """Bytes of a token's keys and values in one sublayer; the rotary lanes of MLA stay bf16."""
    if attention.kind == "mla":
        latent = attention.kv_lora * WIDTH[dtype]
        scales = 0.0 if dtype == "bf16" else 4 * attention.kv_lora / SCALED
        return latent + scales + WIDTH["bf16"] * attention.rope
    return attention.kv_heads * (attention.query + attention.value) * WIDTH[dtype]


def index_bytes(attention: Attention, dtype: str) -> float:
    """Bytes of a token's index key: of one sublayer that owns an indexer."""
    if not attention.index_heads:
        return 0.0
    return attention.index_dim * WIDTH[dtype] + (0.0 if dtype == "bf16" else 4 * attention.index_dim / SCALED)


def token_bytes(shape: Shape, pool: Pool, precision: Precision, drafting: bool = False) -> float:
    """Bytes that a token's keys take on each device of its group.

    The latent of MLA is one for all heads, and so is an index key: all `tp` devices keep all of it. Heads of grouped
    queries are divided among them.
    """
    size = 0.0
    for group in layers_of(shape, drafting):
        attention = group.attention
        divided = 1 if attention.kind == "mla" else min(pool.tp, attention.kv_heads)
        owners = 1 if pool.index_everywhere else attention.index_share
        each = key_bytes(attention, precision.keys) / divided + index_bytes(attention, precision.index) / owners
        size += group.count * group.sublayers * each
    return size


def weight_bytes(shape: Shape, pool: Pool, precision: Precision, drafting: bool = False) -> dict[str, float]:
    """Bytes of weights on a device, by component."""
    width, hidden = WIDTH[precision.weights], shape.hidden
    matrices = 3 if shape.gated else 2
    parts = {"attention": 0.0, "dense": 0.0, "experts": 0.0, "router": 0.0}
    for group in layers_of(shape, drafting):
        everywhere, divided = attention_parameters(group.attention, hidden)
        parts["attention"] += width * group.count * group.sublayers * (everywhere + divided / pool.tp)
        parts["attention"] += width * group.count * group.sublayers * index_parameters(group.attention, hidden)
        parts["dense"] += width * group.count * matrices * hidden * sum(group.dense) / pool.tp
        if group.experts:
            held = (group.experts.routed + pool.spares) / pool.experts_over
            one = matrices * hidden * group.experts.width
            parts["experts"] += WIDTH[precision.expert_weights] * group.count * held * one
            parts["dense"] += width * group.count * matrices * hidden * group.experts.shared / pool.tp
            parts["router"] += ROUTER * group.count * hidden * _choices(group.experts)
    if drafting and shape.draft is not None:
        parts["dense"] += width * shape.draft.count * 2 * hidden * hidden / pool.tp
    both = 1 if shape.tied else 2
    parts["embedding"] = WIDTH["bf16"] * both * shape.vocab * hidden / pool.tp
    tables = shape.ngram_rows * shape.ngram_width + shape.ngram_tables * shape.ngram_width * hidden
    parts["tables"] = WIDTH[precision.table_weights] * tables / pool.devices
    return {name: size for name, size in parts.items() if size}


def attention_parameters(attention: Attention, hidden: int) -> tuple[float, float]:
    """Parameters of a sublayer's projections: those that every device of a group has, and those that it divides."""
    heads = attention.heads
    if attention.kind == "gqa":
        keys = hidden * attention.kv_heads * (attention.query + attention.value)
        return 0.0, keys + hidden * heads * (attention.query + attention.value)
    nope = attention.query - attention.rope
    down = hidden * (attention.q_lora + attention.kv_lora + attention.rope)
    queries = (attention.q_lora or hidden) * heads * attention.query
    return down, queries + attention.kv_lora * heads * (nope + attention.value) + heads * attention.value * hidden


def index_parameters(attention: Attention, hidden: int) -> float:
    """Parameters of the indexer, of a sublayer on average; every device of a group has them all."""
    if not attention.index_heads:
        return 0.0
    source = attention.q_lora or hidden
    queries = source * attention.index_heads * attention.index_dim
    return (queries + hidden * (attention.index_dim + attention.index_heads)) / attention.index_share


def _choices(experts: Experts) -> int:
    return experts.routed + experts.zero


def layers_of(shape: Shape, drafting: bool) -> tuple[Layers, ...]:
    """Groups of layers, the draft head's behind them if it is used."""
    return (*shape.layers, shape.draft) if drafting and shape.draft is not None else shape.layers
