"""Floating-point operations of a token in a forward pass. Multiply and add are two; training takes three times as many,
recomputation left out (arXiv 2205.05198 section 5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache

from homegrown.plan.facts import Attention, Layers, Shape
from homegrown.plan.matrices import indexers, layer_matrices
from homegrown.plan.results import Flops

CORE, SCORING = "attention core", "index scoring"
"""Components of work that have no parameters: queries on keys and values; the indexer's queries on its keys."""


def seen(attention: Attention, sequence: float, causal: bool = True) -> float:
    """Keys that a query of a sequence sees on average.

    All of them are half the sequence, as publications count causal attention; a budget of K keys leaves
    K - K^2 / (2 S): queries before the K-th see what there is.
    """
    budget = attention.budget
    if not causal:
        return min(sequence, budget) if budget else float(sequence)
    if not budget or sequence <= budget:
        return sequence / 2
    return budget - budget * budget / (2 * sequence)


def scored(attention: Attention, sequence: float, causal: bool = True, hierarchical: bool = False) -> float:
    """Keys that an indexer scores for a query, on average: all that are visible, never a budget of them.

    Hierarchical indexing (arXiv 2608.01662 section 3.3) scores one mean of `index_block` keys for every block, then the
    keys of the best pages only; queries that see fewer keys than its threshold score all.
    """
    pages = attention.index_pages * attention.index_page
    below = min(float(attention.index_threshold), float(sequence))
    if not (hierarchical and pages) or below >= sequence:
        return sequence / 2 if causal else float(sequence)
    if not causal:
        return sequence / attention.index_block + min(sequence, pages)
    # Integrals over the queries' positions x: of x up to the threshold, of x / block + min(x, pages) from there on.
    full = below * below / 2
    blocks = (sequence * sequence - below * below) / (2 * attention.index_block)
    rising = min(max(pages, below), sequence)
    inside = (rising * rising - below * below) / 2 + (sequence - rising) * pages
    return (full + blocks + inside) / sequence


def layer_work(
    shape: Shape, layers: Layers, sequence: float, causal: bool = True, scoring: float | None = None
) -> dict[str, float]:
    """FLOPs of a token in one layer, by component; `attention core` and `index scoring` besides those of parameters.

    Args:
        scoring: keys that an indexer scores for a query; `None`, all that are visible.
    """
    found: defaultdict[str, float] = defaultdict(float)
    experts = layers.experts
    for matrix in layer_matrices(shape, layers):
        used = experts.real if matrix.routed and experts is not None else matrix.copies
        found[matrix.part] += 2 * used * matrix.inputs * matrix.outputs
    attention = layers.attention
    widths = attention.query + attention.value
    found[CORE] = layers.sublayers * 2 * seen(attention, sequence, causal) * attention.heads * widths
    if attention.index_heads:
        keys = scored(attention, sequence, causal) if scoring is None else scoring
        found[SCORING] = indexers(layers) * 2 * keys * attention.index_heads * attention.index_dim
    return dict(found)


@lru_cache(maxsize=4096)
def work(shape: Shape, sequence: float, causal: bool = True, hierarchical: bool = False) -> Mapping[str, float]:
    """FLOPs of a token by component, without the draft head; see `layer_work`."""
    found: defaultdict[str, float] = defaultdict(float)
    before = 0.0  # indexers of earlier layers
    for layers in shape.layers:
        own = layers.count * indexers(layers)
        keys = _scored_on_average(layers, sequence, causal, hierarchical, before)
        before += own
        for part, flops in layer_work(shape, layers, sequence, causal, keys).items():
            found[part] += layers.count * flops
    if shape.ngram_tables:
        found["n-gram projections"] = 2.0 * shape.ngram_tables * shape.ngram_width * shape.hidden
    found["head"] = 2.0 * shape.hidden * shape.vocab
    return dict(found)


def _scored_on_average(
    layers: Layers, sequence: float, causal: bool, hierarchical: bool, before: float
) -> float | None:
    """Keys scored by the indexers of some layers, of which the model's first ones take no short cut."""
    attention, own = layers.attention, layers.count * indexers(layers)
    if not own:
        return None
    whole = min(max(attention.index_skip - before, 0.0), own)
    everything = scored(attention, sequence, causal)
    return (whole * everything + (own - whole) * scored(attention, sequence, causal, hierarchical)) / own


@lru_cache(maxsize=4096)
def draft_work(shape: Shape, sequence: float, causal: bool = True) -> Mapping[str, float]:
    """FLOPs of a token in all draft steps, by component: merging, a block, the head; the first step's indexer serves
    all of them (arXiv 2412.19437 section 2.2, arXiv 2608.01662 section 6.1)."""
    if shape.draft is None:
        return {}
    steps = shape.draft_steps
    found = {
        part: flops * (1 if part in ("indexer", SCORING) else steps)
        for part, flops in layer_work(shape, shape.draft, sequence, causal).items()
    }
    found["merge"] = steps * 4.0 * shape.hidden * shape.hidden
    found["head"] = steps * 2.0 * shape.hidden * shape.vocab
    return found


@lru_cache(maxsize=4096)
def flops(shape: Shape, sequence: float, causal: bool = True, hierarchical: bool = False) -> Flops:
    """FLOPs of a token in a forward pass.

    Args:
        shape: the model.
        sequence: tokens of a sequence.
        causal: whether attention and indexers count the visible half of the sequence or all of it.
        hierarchical: whether indexers look at pages first, where the model has such (it is for inference).
    """
    found = dict(work(shape, sequence, causal, hierarchical))
    aside = (CORE, SCORING, "indexer", "router", "head")
    return Flops(
        linear=sum(number for part, number in found.items() if part not in aside),
        attention=found[CORE],
        indexer=found.get("indexer", 0.0) + found.get(SCORING, 0.0),
        router=found.get("router", 0.0),
        head=found["head"],
        draft=sum(draft_work(shape, sequence, causal).values()),
    )


def lookup_bytes(shape: Shape, precision: int = 2) -> float:
    """Bytes of n-gram rows that a token reads (arXiv 2601.21204); as many travel where others hold the tables."""
    return float(shape.ngram_tables * shape.ngram_width * precision)
