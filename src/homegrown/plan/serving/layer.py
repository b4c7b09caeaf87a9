"""Seconds of a layer on one device, in decoding and in prefill.

Symbols of the formulas: t query tokens of an attention group, h hidden width, H heads, L keys that a token sees,
c and r the latent's and the rotary width, n and v a head's width without rotary lanes and of its values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from homegrown.plan.facts import Attention, Layers, Shape
from homegrown.plan.routing import largest_of
from homegrown.plan.serving.clock import TILE, Clock
from homegrown.plan.serving.links import all_gather, all_reduce
from homegrown.plan.serving.routing import Routing, routed, traffic
from homegrown.plan.serving.setup import WIDTH, Pool, Precision
from homegrown.plan.serving.weights import index_bytes, key_bytes

ABSORBED = 32
"""Queries of a request below which up-projections are absorbed: keys stay latent (DeepSeek-V2, arXiv 2405.04434)."""
INDEX_PASSES = 4
"""Times that a score of four bytes is written or read: once written, and three passes of a radix selection."""


@dataclass(frozen=True)
class Span:
    """Requests of a group alike: their number, the new tokens of each, and the keys that those see on average.

    Attributes:
        past: keys that were there before; in prefill they are expanded from the latent again.
    """

    requests: float
    queries: float
    keys: float
    past: float = 0.0

    @property
    def rows(self) -> float:
        """New tokens."""
        return self.requests * self.queries


@dataclass(frozen=True)
class Pass:
    """One pass of a pool through the model: what a group has before it.

    Attributes:
        uneven: deviation over mean of the work of requests: groups in step wait for the fullest.
        units: share of the device that computes; the rest moves tokens.
    """

    shape: Shape
    pool: Pool
    precision: Precision
    spans: Sequence[Span]
    uneven: float = 0.0
    units: float = 1.0

    @property
    def rows(self) -> float:
        """New tokens of a group."""
        return sum(span.rows for span in self.spans)


@dataclass(frozen=True)
class LayerTime:
    """Seconds of a layer by part; `sent` is what tokens need on their way to experts and back, hidden or not.

    Attributes:
        window: of the other parts, seconds that need nothing from the experts.
    """

    attention: float
    core: float
    indexer: float
    dense: float
    experts: float
    collectives: float
    sent: float
    window: float

    @property
    def computing(self) -> float:
        """All parts but what is sent."""
        return self.attention + self.core + self.indexer + self.dense + self.experts + self.collectives


def layer_time(clock: Clock, work: Pass, group: Layers) -> LayerTime:
    """Seconds of one layer of a group of layers alike."""
    projections = projection_time(clock, work, group.attention)
    core = core_time(clock, work, group.attention)
    indexer = indexer_time(clock, work, group)
    sizes = [dense_time(clock, work, width) for width in group.dense]
    passing = elementwise_time(clock, work)
    reduced = all_reduce(clock, work.pool.tp, WIDTH["bf16"] * work.rows * work.shape.hidden)
    routing = None if group.experts is None else routed(clock, work.pool, group.experts, work.rows)
    sent = expert = shared = after = 0.0
    if group.experts is not None and routing is not None:
        expert = _expert_time(clock, work, group, routing)
        sent = traffic(clock, work.pool, work.precision, group.experts, work.rows, work.shape.hidden)
        shared = dense_time(clock, work, group.experts.shared) if group.experts.shared else 0.0
        after = _joined(clock, work, reduced)
    whole = work.pool.tp > 1
    collectives = whole * reduced * (group.sublayers + len(group.dense)) + after
    attention = group.sublayers * (projections + passing)
    # Behind the first attention sublayer the dense path of shortcut-connected experts runs to the layer's end.
    own = projections + core + indexer + passing + whole * reduced
    window = attention + group.sublayers * (core + indexer) + sum(sizes) + shared + whole * reduced * len(group.dense)
    return LayerTime(
        attention=attention / work.units,
        core=group.sublayers * core / work.units,
        indexer=group.sublayers * indexer / work.units,
        dense=(sum(sizes) + shared) / work.units,
        experts=expert / work.units,
        collectives=collectives,
        sent=sent,
        window=max(window - own, 0.0) if group.overlap and work.pool.overlap else 0.0,
    )


def projection_time(clock: Clock, work: Pass, attention: Attention) -> float:
    """Seconds of a sublayer's projections; down-projections and their norms are the same on all `tp` devices."""
    rows, hidden, dtype = work.rows, work.shape.hidden, work.precision.weights
    heads = attention.heads / work.pool.tp
    if attention.kind == "gqa":
        kept = max(attention.kv_heads / work.pool.tp, 1.0)
        outer = heads * attention.query + kept * (attention.query + attention.value)
        return clock.product(rows, hidden, outer, dtype) + clock.product(rows, heads * attention.value, hidden, dtype)
    nope = attention.query - attention.rope
    latent = attention.kv_lora + attention.rope
    seconds = clock.product(rows, hidden, attention.q_lora + latent, dtype) if attention.q_lora else 0.0
    seconds += clock.product(rows, attention.q_lora or hidden, heads * attention.query, dtype)
    if _absorbed(work, attention):
        # W_uk behind the queries and W_uv behind the core, head by head, in the core's format.
        seconds += clock.product(rows, nope, heads * attention.kv_lora, work.precision.core)
        seconds += clock.product(rows, attention.kv_lora, heads * attention.value, work.precision.core)
    else:
        seen = sum(span.requests * span.past for span in work.spans) + rows
        seconds += clock.product(seen, attention.kv_lora, heads * (nope + attention.value), dtype)
    return seconds + clock.product(rows, heads * attention.value, hidden, dtype)


def core_time(clock: Clock, work: Pass, attention: Attention) -> float:
    """Seconds of attention's scores and sums.

    Absorbed: 2 t min(L, K) H (2c + r) operations, (c + r) numbers read for each key; the heads of a device, and in
    dense decoding the tokens of a request too, are rows of one product and are padded to a tile. Not absorbed:
    2 t L H (n + r + v) operations.
    """
    constants, heads = clock.constants, attention.heads / work.pool.tp
    width = key_bytes(attention, work.precision.keys)
    flops = size = 0.0
    for span in work.spans:
        keys = seen(span, attention.budget)
        if attention.kind == "gqa":
            flops += span.rows * keys * 2 * heads * (attention.query + attention.value)
            size += span.requests * keys * width / min(work.pool.tp, attention.kv_heads)
        elif not _absorbed(work, attention):
            flops += span.rows * keys * 2 * heads * (attention.query + attention.value)
            size += span.requests * keys * heads * (attention.query + attention.value) * WIDTH["bf16"]
        else:
            # Selected keys differ from token to token; all keys are read once for all tokens of a request.
            own = 1.0 if attention.budget and span.keys > attention.budget else span.queries
            tiles = math.ceil(heads * own / TILE) * TILE
            flops += span.rows / own * tiles * keys * 2 * (2 * attention.kv_lora + attention.rope)
            size += span.rows / own * keys * width
    sparse = constants.sparse_share if attention.budget else constants.core_share
    share = sparse if work.precision.keys == work.precision.core else min(sparse, constants.dequantised_share)
    requests = sum(span.requests for span in work.spans)
    waiting = 1 + work.uneven / math.sqrt(max(requests, 1.0)) * largest_of(work.pool.groups)
    return clock.kernel(flops * waiting, size * waiting, work.precision.core, share) + clock.constants.kernel_floor


def indexer_time(clock: Clock, work: Pass, group: Layers) -> float:
    """Seconds of selecting keys, of a sublayer on average; the same on all `tp` devices of a group.

    2 t L H_i d_i operations, the L keys read for each request, and t L scores written and searched (DeepSeek-V3.2
    section 2.1; arXiv 2608.01662 section 3). With hierarchical indexing only the keys of the best pages, after the
    means of all pages' blocks.
    """
    attention = group.attention
    if not attention.index_heads:
        return 0.0
    rows, hidden, dtype = work.rows, work.shape.hidden, work.precision.weights
    lanes = attention.index_heads * attention.index_dim
    seconds = clock.product(rows, attention.q_lora or hidden, lanes, dtype)
    seconds += clock.product(rows, hidden, attention.index_dim + attention.index_heads, dtype)
    flops = size = scores = 0.0
    for span in work.spans:
        scored = _scored(group, span)
        flops += span.rows * scored * 2 * lanes
        size += span.requests * scored * index_bytes(attention, work.precision.index)
        scores += span.rows * scored
    if scores:
        seconds += clock.kernel(flops, size, work.precision.index, clock.constants.score_share)
        seconds += clock.stream(4 * INDEX_PASSES * scores, kernels=2)
    return seconds / attention.index_share


def dense_time(clock: Clock, work: Pass, width: float) -> float:
    """Seconds of a dense feed-forward network, whose columns the `tp` devices divide."""
    inner, hidden, dtype = width / work.pool.tp, work.shape.hidden, work.precision.weights
    gates = 2 if work.shape.gated else 1
    seconds = clock.product(work.rows, hidden, gates * inner, dtype) + clock.product(work.rows, inner, hidden, dtype)
    return seconds + clock.stream(WIDTH["bf16"] * work.rows * inner * (gates + 1))


def elementwise_time(clock: Clock, work: Pass) -> float:
    """Seconds of a sublayer's norms, residuals, rotary turns, quantisation and cache writes."""
    passes = clock.constants.elementwise_passes
    return clock.stream(passes * WIDTH["bf16"] * work.rows * work.shape.hidden, kernels=6)


def _expert_time(clock: Clock, work: Pass, group: Layers, routing: Routing) -> float:
    experts, hidden = group.experts, work.shape.hidden
    if experts is None:
        return 0.0
    dtype = work.precision.expert_weights
    gates = 2 if work.shape.gated else 1
    scored = work.rows if work.pool.exchange == "replicated" else work.rows / work.pool.tp
    seconds = clock.product(scored, hidden, experts.routed + experts.zero, "bf16") + clock.stream(0, kernels=2)
    seconds += clock.experts(routing.rows, routing.touched, hidden, gates * experts.width, dtype)
    seconds += clock.experts(routing.rows, routing.touched, experts.width, hidden, dtype)
    moved = routing.rows * routing.touched * (4 * hidden + (gates + 1) * experts.width)
    return seconds + clock.stream(WIDTH["bf16"] * moved, kernels=3)


def _joined(clock: Clock, work: Pass, reduced: float) -> float:
    """Seconds of what follows the experts within a group: a sum of all devices' parts, or their tokens gathered."""
    if work.pool.tp == 1:
        return 0.0
    if work.pool.exchange == "replicated":
        return reduced
    return all_gather(clock, work.pool.tp, WIDTH["bf16"] * work.rows * work.shape.hidden)


def seen(span: Span, budget: int) -> float:
    """Keys that a token of a span attends to, on average: all before it, at most the budget."""
    if not budget or span.queries < ABSORBED:
        return min(span.keys, budget) if budget else span.keys
    below = min(max(budget - span.past, 0.0), span.queries)
    return (below * (span.past + (below + 1) / 2) + (span.queries - below) * budget) / span.queries


def _absorbed(work: Pass, attention: Attention) -> bool:
    return bool(attention.budget) or max(span.queries for span in work.spans) < ABSORBED


def _scored(group: Layers, span: Span) -> float:
    """Keys whose scores are computed for a token, on average over the indexers of the group."""
    attention = group.attention
    paged = attention.index_pages and span.queries > ABSORBED and span.keys >= attention.index_threshold
    if not paged:
        return span.keys
    best = span.keys / attention.index_block + min(span.keys, float(attention.index_pages * attention.index_page))
    indexers = group.count * group.sublayers / attention.index_share
    whole = min(attention.index_skip / indexers, 1.0)
    return whole * span.keys + (1 - whole) * min(best, span.keys)
