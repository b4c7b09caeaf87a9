"""What a forward pass keeps for the backward pass: tensors of a layer and of both ends, and for how many micro-batches
at a time (arXiv 2205.05198 section 4, carried over to latent attention, experts and gated networks)."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

from homegrown.plan.facts import Attention, Experts, Layers, Shape
from homegrown.plan.kernel import ITEM, KEPT, Cut
from homegrown.plan.layout import Layout
from homegrown.plan.matrices import indexers
from homegrown.plan.routing import reached
from homegrown.plan.work import seen

Fate = Literal["input", "kept", "again"]
"""`input`: what a layer begins with, kept under any recomputation. `again`: what selective recomputation drops."""


class Saved(NamedTuple):
    """A tensor that is kept, as it lies on one device."""

    name: str
    part: str
    bytes: float
    fate: Fate = "kept"


class Activations(NamedTuple):
    """Bytes of a layer, or of an end, for one micro-batch on one device.

    Attributes:
        kept: from the forward to the backward pass.
        routed: how many of them grow with the tokens that experts here receive.
        again: made again in the backward pass, alive together for a moment.
        widest: of the largest tensor whose gradient is made.
    """

    kept: float
    routed: float
    again: float
    widest: float


class _Sizes:
    """Bytes of tensors by how they are spread."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        self.item = ITEM["fp32" if cut.precision == "fp32" else "bf16"]
        self.rounded = min(KEPT[cut.precision], self.item)
        # The old programs that the unfused form stands for make again what is quadratic in the sequence, nothing else.
        self.light: Fate = "again" if cut.fused else "kept"

    def own(self, name: str, part: str, numbers: float, fate: Fate = "kept", item: float = 0.0) -> Saved:
        """So many numbers for each token between the blocks that are cut."""
        return Saved(name, part, self.cut.own * numbers * (item or self.item), fate)

    def cutting(self, name: str, part: str, numbers: float, fate: Fate = "kept", item: float = 0.0) -> Saved:
        """So many numbers for each token, of which a device has its tensor-parallel share."""
        return Saved(name, part, self.cut.tokens * numbers / self.cut.tp * (item or self.item), fate)


def layer_saved(shape: Shape, layers: Layers, cut: Cut) -> list[Saved]:
    """Everything that one layer could keep. The tensors are those whose sum is s b h (34 + 5 a s / h) for a layer of
    GPT (arXiv 2205.05198 equation 1)."""
    sizes, found = _Sizes(cut), list[Saved]()
    hidden, dense, experts = shape.hidden, layers.dense, layers.experts
    for sublayer in range(layers.sublayers):
        fate: Fate = "kept" if sublayer else "input"
        found.append(sizes.own("hidden state", "norms", hidden, fate))
        found.append(sizes.own("normed input", "attention", hidden, sizes.light, sizes.rounded))
        found += _of_attention(sizes, layers.attention, shape.dropout)
        routes = experts is not None and not sublayer
        if sublayer < len(dense) or routes:
            found.append(sizes.own("hidden state", "norms", hidden))
            found.append(sizes.own("normed input", "norms", hidden, sizes.light, sizes.rounded))
        if experts is not None and routes:
            found += _of_experts(sizes, shape, experts)
        if sublayer < len(dense):
            found += _of_feed_forward(sizes, shape, dense[sublayer], "dense feed-forward")
        if shape.dropout:
            blocks = 1 + (sublayer < len(dense) or routes)
            found.append(sizes.own("dropped numbers", "norms", blocks * hidden, item=1.0))
    if layers.attention.index_heads:
        found += _of_indexer(sizes, layers)
    return found


def _of_attention(sizes: _Sizes, attention: Attention, dropout: bool) -> list[Saved]:
    cut, heads, part = sizes.cut, attention.heads, "attention"
    kv = attention.kv_heads * max(1.0, cut.tp / attention.kv_heads)  # heads that several devices have count for each
    found = []
    if attention.kind == "mla":
        latents = attention.q_lora + attention.kv_lora
        found += [
            sizes.own("compressed", part, latents),
            sizes.own("compressed, normed", part, latents, sizes.light, sizes.rounded),
            sizes.own("rotary key", part, attention.rope),
            sizes.cutting("queries, keys, values", part, heads * (2 * attention.query + attention.value), sizes.light),
        ]
    else:
        numbers = heads * attention.query + kv * (attention.query + attention.value)
        found.append(sizes.cutting("queries, keys, values", part, numbers))
    found.append(sizes.cutting("attended", part, heads * attention.value, item=sizes.item))
    if cut.fused:
        found.append(sizes.cutting("sums of exponentials", part, heads, item=4.0))
    else:
        scores = heads * cut.sequence
        found.append(sizes.cutting("weights", part, scores, "again"))
        if dropout:
            found.append(sizes.cutting("dropped weights", part, scores, "again", item=1.0))
            found.append(sizes.cutting("weights left", part, scores, "again"))
    return found


def _of_indexer(sizes: _Sizes, layers: Layers) -> list[Saved]:
    """Its queries and keys, and the numbers (int32) of the keys that it chose."""
    attention, share = layers.attention, indexers(layers)
    chosen = min(attention.budget, 2 * seen(attention, sizes.cut.sequence))
    queries = (attention.index_heads + 1) * attention.index_dim
    return [
        sizes.own("index queries and keys", "indexer", share * queries),
        sizes.own("index weights", "indexer", share * attention.index_heads, item=4.0),
        sizes.own("chosen keys", "indexer", share * chosen, item=4.0),
    ]


def _of_feed_forward(sizes: _Sizes, shape: Shape, width: int, part: str) -> list[Saved]:
    return [
        sizes.cutting("up", part, (2 if shape.gated else 1) * width),
        sizes.cutting("activation", part, width, sizes.light, sizes.rounded),
    ]


def _of_experts(sizes: _Sizes, shape: Shape, experts: Experts) -> list[Saved]:
    """A token travels once to each device that holds experts it chose, and is copied there for each of them. Gates
    multiply activations, so that experts' outputs are not kept (arXiv 2603.07685). What activations are made of is kept
    in the precision of the products (arXiv 2412.19437 section 3.3.3)."""
    cut, tokens, choices = sizes.cut, sizes.cut.routed, experts.routed + experts.zero
    copies = tokens * experts.real * cut.etp
    arrived = tokens * reached(experts, cut.ep) * cut.etp if cut.ep > 1 else 0.0
    width = experts.width / cut.etp
    found = [
        Saved("router's input", "router", 4.0 * tokens * shape.hidden, sizes.light),
        Saved("probabilities", "router", 4.0 * tokens * choices),
        Saved("choices and gates", "router", 12.0 * tokens * experts.topk),
        Saved("arrived", "experts", arrived * shape.hidden * sizes.rounded),
        Saved("sorted", "experts", copies * shape.hidden * sizes.rounded, sizes.light),
        Saved("up", "experts", copies * width * (2 if shape.gated else 1) * sizes.rounded),
        Saved("activation", "experts", copies * width * sizes.rounded, sizes.light),
    ]
    if experts.shared:
        found += _of_feed_forward(sizes, shape, experts.shared, "shared experts")
    return found


@lru_cache(maxsize=8192)
def activations(shape: Shape, cut: Cut) -> tuple[Activations, ...]:
    """What they keep for a micro-batch: the embedding, one layer of each kind, the end without logits, the logits."""
    sizes = _Sizes(cut)
    first = [sizes.own("dropped numbers", "word embedding", shape.hidden, item=1.0)] if shape.dropout else []
    rows = cut.routed * shape.ngram_tables * shape.ngram_width * sizes.item
    first.append(Saved("n-gram rows", "n-gram tables", rows))
    final = [sizes.own("hidden state", "norms", 2 * shape.hidden)]
    end = [_summed(final, cut._replace(recompute="none"))]
    if shape.draft is not None:
        merged = sizes.own("merged", "draft head", 6 * shape.hidden)
        block = _summed([*layer_saved(shape, shape.draft, cut), merged, *final], cut)
        end += [block] * shape.draft_steps
    # Gradients of logits take the logits' place in a fused loss; others keep float32 exponentials.
    item = sizes.item if cut.fused else 4.0
    logits = cut.tokens * shape.vocab / cut.tp * item * (1 + shape.draft_steps)
    layers = (_summed(layer_saved(shape, group, cut), cut) for group in shape.layers)
    return (
        _summed(first, cut._replace(recompute="none")),
        *layers,
        Activations(*(sum(column) for column in zip(*end, strict=True))),
        Activations(logits, 0.0, 0.0, logits / (1 + shape.draft_steps)),
    )


def _summed(saved: list[Saved], cut: Cut) -> Activations:
    staying = {"none": ("input", "kept", "again"), "selective": ("input", "kept"), "full": ("input",)}[cut.recompute]
    kept = [tensor for tensor in saved if tensor.fate in staying]
    return Activations(
        kept=sum(tensor.bytes for tensor in kept),
        routed=sum(tensor.bytes for tensor in kept if tensor.part == "experts"),
        again=sum(tensor.bytes for tensor in saved if tensor.fate not in staying),
        widest=max((tensor.bytes for tensor in saved), default=0.0),
    )


def in_flight(layout: Layout, stage: int) -> float:
    """Micro-batches whose activations a stage keeps at a time, at most; a part of its parts counts as a fraction.

    1F1B keeps pp - stage (arXiv 2104.04473 section 2.2.1); interleaved, 2 (pp - stage) - 1 + (v - 1) pp of a v-th of
    the stage (section 2.2.2), which is 1 + (pp - 1) / (pp v) times the whole model on the first (arXiv 2205.05198
    section 4.2.3); zero-bubble as many as 1F1B's first stage on all (arXiv 2401.10241, ZB-H1); DualPipe pp + 1 of
    layers of one stage (arXiv 2412.19437 table 2).
    """
    pp, parts, every = layout.pp, layout.parts, layout.micro_batches
    if layout.schedule == "dual" and pp > 1:
        return min(pp + 1, every)
    if layout.schedule == "zero-bubble":
        return min(pp, every)
    if parts == 1:
        return min(pp - stage, every)
    return min(2 * (pp - stage) - 1 + (parts - 1) * pp, every * parts) / parts
