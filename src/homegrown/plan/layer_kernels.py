"""Kernels of one layer. Names of widths: h of the hidden state, T tokens of a tensor-parallel group, T / tp those that
a device has between the blocks that are cut (arXiv 2205.05198 section 4)."""

from __future__ import annotations

from homegrown.plan.facts import Attention, Experts, Layers, Shape
from homegrown.plan.kernel import Kernel, Recorder
from homegrown.plan.matrices import indexers
from homegrown.plan.work import scored, seen

FLASH_BACKWARD = (3.0, 2.0)
"""Products over the query width and over the value width in the backward pass of attention that keeps no scores: scores
again, gradients of queries and of keys; gradients of scores and of values (arXiv 2205.14135 section 3.1)."""


def write_layer(pen: Recorder, shape: Shape, layers: Layers, selects: bool = True) -> None:
    """All kernels of one layer, in the order of its forward pass.

    Args:
        selects: whether its indexers choose keys; later draft steps take over what the first one chose.
    """
    dense, experts = list(layers.dense), layers.experts
    owed = indexers(layers) if selects else 0.0
    for sublayer in range(layers.sublayers):
        write_norm(pen, shape, "norm before attention")
        # An indexer that several layers share counts as its share of each.
        _write_attention(pen, shape, layers.attention, min(owed, 1.0))
        owed -= min(owed, 1.0)
        _write_residual(pen, shape, "attention")
        if sublayer < len(dense) or (experts is not None and not sublayer):
            write_norm(pen, shape, "norm before feed-forward")
        if experts is not None and not sublayer:
            _write_experts(pen, shape, experts)
            if not dense:
                _write_residual(pen, shape, "experts")
        if sublayer < len(dense):
            _write_feed_forward(pen, shape, dense[sublayer], "dense feed-forward")
            _write_residual(pen, shape, "dense feed-forward")


def write_norm(pen: Recorder, shape: Shape, name: str) -> None:
    """RMSNorm or LayerNorm: read and write; backward also the gradient of what goes past it."""
    numbers = pen.cut.own * shape.hidden
    pen.memory(name, "norms", 4.0 * numbers, 8.0 * numbers, again=pen.cut.fused)


def _write_residual(pen: Recorder, shape: Shape, part: str) -> None:
    """Add a sublayer's output to the hidden state, with its bias, dropped numbers left out."""
    numbers = pen.cut.own * shape.hidden
    mask = 1.0 if shape.dropout else 0.0
    pen.memory("residual", part, (6.0 + mask) * numbers, (4.0 + mask) * numbers if shape.dropout else 0.0)


def _write_feed_forward(pen: Recorder, shape: Shape, width: int, part: str) -> None:
    cut, local = pen.cut, width / pen.cut.tp
    ways = 2 if shape.gated else 1
    pen.product("up", part, cut.tokens, shape.hidden, ways * local)
    _write_activation(pen, part, cut.tokens * local, ways)
    pen.product("down", part, cut.tokens, local, shape.hidden)


def _write_activation(pen: Recorder, part: str, numbers: float, ways: int) -> None:
    """silu(gate) * up, or GELU: read one or two, write one; backward reads one more and writes one or two."""
    pen.memory("activation", part, 2.0 * (ways + 1) * numbers, 2.0 * (2 * ways + 1) * numbers, again=pen.cut.fused)


# Attention


def _write_attention(pen: Recorder, shape: Shape, attention: Attention, indexer: float) -> None:
    cut, heads, hidden = pen.cut, attention.heads / pen.cut.tp, shape.hidden
    if attention.kind == "mla":
        _write_latent_projections(pen, shape, attention)
    else:
        kv = attention.kv_heads / min(cut.tp, attention.kv_heads)
        columns = heads * attention.query + kv * (attention.query + attention.value)
        pen.product("query, key, value", "attention", cut.tokens, hidden, columns)
        if not shape.positions:
            rotated = 4.0 * cut.tokens * (heads + kv) * attention.query
            pen.memory("rotation", "attention", rotated, rotated)
    if indexer:
        _write_indexer(pen, shape, attention, indexer)
    _write_core(pen, shape, attention)
    pen.product("output", "attention", cut.tokens, heads * attention.value, hidden)


def _write_latent_projections(pen: Recorder, shape: Shape, attention: Attention) -> None:
    """Compressed states are made from a device's own tokens, and expanded for all tokens on the heads that are here;
    once more in the backward pass under selective recomputation (arXiv 2412.19437 section 3.2.3)."""
    cut, heads, hidden = pen.cut, attention.heads / pen.cut.tp, shape.hidden
    latents = attention.q_lora + attention.kv_lora
    pen.product("compression", "attention", cut.own, hidden, latents + attention.rope)
    pen.memory("latent norms", "attention", 4.0 * cut.own * latents, 8.0 * cut.own * latents, again=cut.fused)
    plain = attention.query - attention.rope
    pen.product(
        "query up", "attention", cut.tokens, attention.q_lora or hidden, heads * attention.query, again=cut.fused
    )
    pen.product(
        "key-value up", "attention", cut.tokens, attention.kv_lora, heads * (plain + attention.value), again=cut.fused
    )
    # Rotary lanes of queries in place; keys are put together from what is expanded and the lanes that heads share.
    rotated = 2.0 * cut.tokens * heads * (2 * attention.rope + plain + attention.query)
    pen.memory("rotation", "attention", rotated, rotated, again=cut.fused)


def _write_core(pen: Recorder, shape: Shape, attention: Attention) -> None:
    cut, heads = pen.cut, attention.heads / pen.cut.tp
    keys, every = seen(attention, cut.sequence), cut.sequence / 2
    if not cut.fused:
        _write_scores(pen, shape, attention)
        return
    query, value, kv = attention.query, attention.value, attention.kv_heads / min(cut.tp, attention.kv_heads)
    moved = 2.0 * cut.tokens * (heads * (query + value) + cut.cp * kv * (query + value))
    dense = 2.0 * cut.tokens * heads * every
    if keys == every:
        _write_products(pen, "attention core", dense, query, value, moved, (cut.sequence, every))
        return
    latent = attention.kv_lora + attention.rope if attention.kind == "mla" else query
    read = attention.kv_lora if attention.kind == "mla" else value
    sparse = 2.0 * cut.tokens * heads * keys
    if attention.kind == "mla" and sparse * (latent + read) > dense * (query + value):
        # Few keys are masked: seeing all of them, expanded, costs less than fetching some compressed
        # (arXiv 2512.02556 section 2.1 has both modes).
        _write_products(pen, "attention core, masked", dense, query, value, moved, (cut.sequence, every))
        return
    # Chosen keys differ from query to query: they are fetched compressed, one for all heads, and queries work on the
    # latent itself.
    gathered = 2.0 * cut.tokens * (keys * latent + heads * (latent + read))
    _write_products(pen, "attention core, sparse", sparse, latent, read, gathered, (heads, keys))


def _write_products(
    pen: Recorder, name: str, pairs: float, query: float, value: float, moved: float, sizes: tuple[float, float]
) -> None:
    """Attention that keeps its scores on the chip.

    Args:
        pairs: twice the pairs of a query head and a key.
        query, value: numbers of a product over queries and keys, and over weights and values.
        sizes: queries that share keys, and keys.
    """
    rows, keys = sizes
    over_query, over_value = FLASH_BACKWARD
    pen.other(
        Kernel(name, "attention", "attention", pairs * (query + value), moved, "bf16", rows, query, keys),
        Kernel(
            name, "attention", "attention", pairs * (over_query * query + over_value * value), 2.5 * moved, "bf16",
            rows, query, keys,
        ),
    )  # fmt: skip


def _write_scores(pen: Recorder, shape: Shape, attention: Attention) -> None:
    """Attention as separate kernels that write all scores, masked ones too (arXiv 2205.05198 section 4.1); selective
    recomputation does all of it again."""
    cut, heads = pen.cut, attention.heads / pen.cut.tp
    matrices, sequence = cut.tokens * heads / cut.sequence, float(cut.sequence)
    scores = matrices * sequence * sequence

    def product(name: str, rows: float, inner: float, columns: float) -> Kernel:
        moved = 2.0 * matrices * (rows * inner + inner * columns + rows * columns)
        flops = 2.0 * matrices * rows * inner * columns
        return Kernel(name, "attention", "matmul", flops, moved, "bf16", rows, inner, columns, matrices)

    query, value = float(attention.query), float(attention.value)
    pen.other(
        product("scores", sequence, query, sequence),
        product("scores, queries", sequence, sequence, query),
        product("scores, keys", sequence, sequence, query),
        again=True,
    )
    pen.memory("softmax", "attention", 4.0 * scores, 6.0 * scores, again=True)
    if shape.dropout:
        pen.memory("dropout", "attention", 5.0 * scores, 5.0 * scores, again=True)
    pen.other(
        product("weighted values", sequence, sequence, value),
        product("weighted values, weights", sequence, value, sequence),
        product("weighted values, values", sequence, sequence, value),
        again=True,
    )


def _write_indexer(pen: Recorder, shape: Shape, attention: Attention, share: float) -> None:
    """Scores of all visible keys for a device's own queries, and the choice of the best.

    The indexer's inputs carry no gradient; it learns from its own loss on the chosen keys: the target, attention summed
    over heads, is made again, and so are their scores (arXiv 2512.02556 section 2.1, arXiv 2608.01662).
    """
    cut, heads, width = pen.cut, attention.index_heads, attention.index_dim
    own = cut.own * share
    inputs = attention.q_lora or shape.hidden
    pen.product("index queries", "indexer", own, inputs, heads * width, dtype=pen.plain, detached=True)
    pen.product("index keys", "indexer", own, shape.hidden, width + heads, dtype=pen.plain, detached=True)
    rotated = 4.0 * own * (heads + 1) * width
    pen.memory("index rotation", "indexer", rotated, rotated)
    visible, keys = scored(attention, cut.sequence), seen(attention, cut.sequence)
    pair = 2.0 * heads * width
    moved = 2.0 * own * (heads + cut.cp * cut.tp / max(cut.rows, 1)) * width + 4.0 * own * visible
    target = 2.0 * cut.tokens * share * keys * attention.heads / cut.tp * attention.query
    pen.other(
        Kernel("index scoring", "indexer", "attention", own * visible * pair, moved, "bf16", heads, width, visible),
        Kernel(
            "index loss", "indexer", "attention", 3.0 * own * keys * pair + target, 2.5 * 4.0 * own * keys, "bf16",
            heads, width, keys,
        ),
    )  # fmt: skip
    # Scores are read twice, to find the threshold and to take what lies above it; choices are written as int32.
    pen.memory("choice of keys", "indexer", own * (8.0 * visible + 4.0 * keys), 0.0)


# Experts


def _write_experts(pen: Recorder, shape: Shape, experts: Experts) -> None:
    cut, hidden = pen.cut, shape.hidden
    choices, routed = experts.routed + experts.zero, cut.routed
    pen.product("router", "router", routed, hidden, choices, dtype="fp32")
    pen.memory("routing", "router", 16.0 * routed * choices, 12.0 * routed * choices)
    copies = routed * experts.real
    spread = 2.0 * hidden * (routed + copies)
    pen.memory("sorting out", "experts", spread, spread)
    # What arrives from all senders is put in the order of experts.
    arrived = 4.0 * hidden * copies * cut.etp if cut.ep > 1 else 0.0
    if arrived:
        pen.memory("sorting in", "experts", arrived, arrived, again=cut.fused)
    held = experts.routed / cut.ep
    rows, width, ways = copies * cut.etp / held, experts.width / cut.etp, 2 if shape.gated else 1
    pen.product("up", "experts", rows, hidden, ways * width, products=held)
    _write_activation(pen, "experts", rows * held * width, ways)
    pen.product("down", "experts", rows, width, hidden, products=held)
    if arrived:
        pen.memory("sorting back", "experts", arrived, arrived)
    pen.memory("weighted sum", "experts", spread, spread)
    if experts.zero:
        passed = 6.0 * hidden * routed
        pen.memory("zero experts", "experts", passed, passed)
    if experts.shared:
        _write_feed_forward(pen, shape, experts.shared, "shared experts")
