"""The matrices of a model, told apart by how they are spread, trained and used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from homegrown.plan.facts import Attention, Experts, Layers, Shape

COMPONENTS = (
    "word embedding", "n-gram tables", "n-gram projections", "attention", "indexer", "dense feed-forward", "router",
    "experts", "shared experts", "norms", "head", "draft head",
)  # fmt: skip
"""Parts of a model by which parameters, work and memory are told apart, in the order of tables. The names are those of
a dry run of training."""


class Matrix(NamedTuple):
    """A linear map, or so many alike.

    Attributes:
        part: component of the model.
        copies: of them in a layer; may be a fraction where several layers share one.
        cut: what tensor parallelism cuts: rows (`outputs`), columns (`inputs`), or nothing.
        limit: into how many pieces it can be cut at most; 0, any number.
        routed: belongs to experts that tokens choose.
        wide: kept and multiplied in float32.
        hidden: one that Muon trains, where it trains any.
    """

    name: str
    part: str
    inputs: int
    outputs: int
    copies: float = 1
    cut: Literal["", "inputs", "outputs"] = ""
    limit: int = 0
    routed: bool = False
    wide: bool = False
    hidden: bool = True
    bias: bool = False

    @property
    def numbers(self) -> float:
        """Of all that are alike, biases left out."""
        return self.copies * self.inputs * self.outputs


def layer_matrices(shape: Shape, layers: Layers) -> Iterator[Matrix]:
    """Matrices of one layer."""
    for matrix in attention_matrices(shape, layers.attention):
        yield matrix._replace(copies=layers.sublayers)
    for matrix in indexer_matrices(shape, layers.attention):
        yield matrix._replace(copies=indexers(layers))
    for width in layers.dense:
        yield from feed_forward(shape, width, "dense feed-forward")
    if layers.experts is not None:
        yield from _experts(shape, layers.experts)


def indexers(layers: Layers) -> float:
    """Indexers of a layer; a fraction where several layers share one."""
    return layers.sublayers / layers.attention.index_share if layers.attention.index_heads else 0.0


def attention_matrices(shape: Shape, attention: Attention) -> Iterator[Matrix]:
    """Those of one sublayer: multi-head, grouped (arXiv 2305.13245) or latent (arXiv 2405.04434 section 2.1)."""
    hidden, heads = shape.hidden, attention.heads
    part, bias = "attention", attention.bias or shape.bias
    if attention.kind == "mla":
        latent = attention.kv_lora
        if attention.q_lora:
            yield Matrix("query down", part, hidden, attention.q_lora, bias=bias)
        inputs = attention.q_lora or hidden
        yield Matrix("query up", part, inputs, heads * attention.query, cut="outputs")
        yield Matrix("key-value down", part, hidden, latent + attention.rope, bias=bias)
        expanded = heads * (attention.query - attention.rope + attention.value)
        yield Matrix("key-value up", part, latent, expanded, cut="outputs")
    else:
        kv = attention.kv_heads
        yield Matrix("query", part, hidden, heads * attention.query, cut="outputs", bias=bias)
        yield Matrix("key", part, hidden, kv * attention.query, cut="outputs", limit=kv, bias=bias)
        yield Matrix("value", part, hidden, kv * attention.value, cut="outputs", limit=kv, bias=bias)
    yield Matrix("output", part, heads * attention.value, hidden, cut="inputs", bias=shape.bias)


def indexer_matrices(shape: Shape, attention: Attention) -> Iterator[Matrix]:
    """Those of one indexer (arXiv 2512.02556 section 2.1, arXiv 2608.01662)."""
    heads, width = attention.index_heads, attention.index_dim
    if heads:
        yield Matrix("index queries", "indexer", attention.q_lora or shape.hidden, heads * width, hidden=False)
        yield Matrix("index keys", "indexer", shape.hidden, width, hidden=False)
        yield Matrix("index weights", "indexer", shape.hidden, heads, wide=True, hidden=False)


def feed_forward(shape: Shape, width: int, part: str, count: int = 1, routed: bool = False) -> Iterator[Matrix]:
    """A feed-forward network: gated with three matrices (arXiv 2002.05202), or with two."""
    for name in ("gate", "up") if shape.gated else ("up",):
        yield Matrix(name, part, shape.hidden, width, count, "outputs", routed=routed, bias=shape.bias)
    yield Matrix("down", part, width, shape.hidden, count, "inputs", routed=routed, bias=shape.bias)


def _experts(shape: Shape, experts: Experts) -> Iterator[Matrix]:
    choices = experts.routed + experts.zero
    yield Matrix("router", "router", shape.hidden, choices, wide=True, hidden=False)
    yield from feed_forward(shape, experts.width, "experts", experts.routed, routed=True)
    if experts.shared:
        yield from feed_forward(shape, experts.shared, "shared experts")


def draft_matrices(shape: Shape) -> Iterator[Matrix]:
    """Those of one draft block: what merges a token with a state, and its layer (arXiv 2412.19437 section 2.2)."""
    if shape.draft is not None:
        yield Matrix("merge", "draft head", 2 * shape.hidden, shape.hidden)
        yield from layer_matrices(shape, shape.draft)


def layer_vectors(shape: Shape, layers: Layers) -> dict[str, float]:
    """Numbers of one layer that are in no matrix and no bias, by component: scales of norms, biases of routers."""
    attention, experts = layers.attention, layers.experts
    norm = shape.hidden * (2 if shape.bias else 1)
    found = {"norms": float(norm * (layers.sublayers + max(len(layers.dense), experts is not None)))}
    if attention.kind == "mla":
        found["attention"] = float(layers.sublayers * (attention.q_lora + attention.kv_lora))
    if attention.index_heads:
        found["indexer"] = indexers(layers) * attention.index_dim * (2 if attention.index_bias else 1)
    if experts is not None:
        found["router"] = float(experts.biases * (experts.routed + experts.zero))
    return found
