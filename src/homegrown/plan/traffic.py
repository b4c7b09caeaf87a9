"""Bytes that devices send one another: what times of traffic are made of, and sums of a step by dimension.

A collective counts as what it hands to others, whichever way it goes: gathering S bytes of which each of n has its
share, or scattering their sum, S (n - 1) / n a device (Thakur, Rabenseifner, Gropp 2005, doi
10.1177/1094342005051521).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from homegrown.plan.facts import Attention, Layers, Shape
from homegrown.plan.kernel import ITEM as WIDTHS
from homegrown.plan.kernel import KEPT, Cut, cut_of
from homegrown.plan.layout import Layout
from homegrown.plan.matrices import indexers
from homegrown.plan.network import Group
from homegrown.plan.parts import parts_of
from homegrown.plan.routing import reached
from homegrown.plan.states import Held, Rules, held_on
from homegrown.plan.work import lookup_bytes

ITEM = 2.0
"""Bytes of a number of an activation that travels."""


class Rounds(NamedTuple):
    """How often the states of a micro-batch are gathered or scattered over a tensor-parallel group.

    Attributes:
        forward: in the forward pass.
        opening: in the backward pass, before a product can begin. behind: beside products.
        again: what full recomputation repeats.
    """

    forward: float
    opening: float
    behind: float
    again: float

    @property
    def backward(self) -> float:
        """All of the backward pass, recomputation left out."""
        return self.opening + self.behind


class Summed(NamedTuple):
    """Numbers that the devices of a group hold in common, so that their gradients are summed there.

    Attributes:
        gradients: of a device. weights: that all of them change, and hand out.
    """

    gradients: float
    weights: float
    group: Group


# Tensor parallelism


def state_bytes(shape: Shape, cut: Cut) -> float:
    """Of the residual stream of a micro-batch: all tokens that a tensor-parallel group works on."""
    return ITEM * cut.tokens * shape.hidden


def embedding_rounds(layout: Layout) -> Rounds:
    """Words are summed over those who hold them."""
    return Rounds(1.0, 1.0, 0.0, 0.0) if layout.sequence_parallel else Rounds(2.0, 0.0, 0.0, 0.0)


def layer_rounds(shape: Shape, layout: Layout, layers: Layers) -> Rounds:
    """Of a layer: attention, dense feed-forward networks and shared experts are blocks."""
    shared = layers.experts is not None and layers.experts.shared > 0
    blocks = layers.sublayers + len(layers.dense) + shared
    return _block_rounds(layout, blocks - layers.sublayers * _latent_saving(shape, layout, layers.attention), blocks)


def end_rounds(shape: Shape, layout: Layout) -> Rounds:
    """Of the head, in every draft step too: it takes all tokens of a group, and what it gives is added up, not
    scattered. Draft steps embed words."""
    steps = 1.0 * shape.draft_steps
    words, heads = embedding_rounds(layout), 1.0 + steps
    forward = steps * words.forward + (heads if layout.sequence_parallel else 0.0)
    return Rounds(forward, steps * words.opening, 2.0 * heads, forward)


def _latent_saving(shape: Shape, layout: Layout, attention: Attention) -> float:
    """Share of a gathered hidden state that is saved where latents are gathered in its place."""
    if attention.kind != "mla" or not layout.sequence_parallel:
        return 0.0
    return 1.0 - min((attention.q_lora + attention.kv_lora + attention.rope) / shape.hidden, 1.0)


def _block_rounds(layout: Layout, inputs: float, outputs: float) -> Rounds:
    """Blocks whose matrices are cut (arXiv 2205.05198 section 4.2.2), by how often a state is gathered as their input,
    and scattered as their output.

    Forward, with sequence parallelism, a block's input is gathered and its output scattered; without, its output is
    summed. Backward, what comes is gathered, and behind products the input is gathered again and its gradient scattered
    (or summed).
    """
    forward = inputs + outputs
    return Rounds(forward, outputs if layout.sequence_parallel else 0.0, 2.0 * inputs, forward)


def chosen_bytes(layout: Layout, cut: Cut, layers: Layers) -> float:
    """Of what is known of every key that a query of a micro-batch sees: its number, or its probability."""
    return 4.0 * cut.tokens * min(layers.attention.budget or layout.sequence, layout.sequence)


def chosen_rounds(layout: Layout, layers: Layers) -> tuple[float, float]:
    """How often that is gathered or scattered over a tensor-parallel group that cuts the sequence, and attention's
    heads: the choices of an indexer, made by each rank for its own tokens; and, of every sublayer, the probabilities
    that it learns from, summed over heads for each rank's own tokens (arXiv 2512.02556 section 2.1)."""
    owners = indexers(layers) if layout.sequence_parallel else 0.0
    return owners, 1.0 * layers.sublayers if owners else 0.0


def draft_step(shape: Shape) -> Layers | None:
    """The draft block in one of its steps: the later ones take over the choices of the first."""
    draft = shape.draft
    if draft is None or shape.draft_steps < 2 or not draft.attention.index_heads:
        return draft
    return _sharing(draft, shape.draft_steps)


@lru_cache(maxsize=256)
def _sharing(draft: Layers, steps: int) -> Layers:
    return replace(draft, attention=replace(draft.attention, index_share=steps * draft.attention.index_share))


# The other dimensions of a layer


def key_bytes(layout: Layout, layers: Layers) -> float:
    """Keys and values of a micro-batch's sequences in one sublayer: compressed ones in latent attention, and an
    indexer's keys."""
    attention = layers.attention
    if attention.kind == "mla":
        width = float(attention.kv_lora + attention.rope)
    else:
        width = attention.kv_heads / min(layout.tp, attention.kv_heads) * (attention.query + attention.value)
    width += attention.index_dim / attention.index_share
    return ITEM * layout.micro_batch * layout.sequence * width


def key_rounds(layout: Layout, layers: Layers) -> tuple[float, float]:
    """How often keys are gathered, forward and backward: again in the backward pass, where their gradients are
    scattered."""
    return 1.0 * layers.sublayers, (3.0 if layout.recompute == "full" else 2.0) * layers.sublayers


def routed_bytes(shape: Shape, layout: Layout, cut: Cut) -> float:
    """Of a device's tokens to one place each, and of answers back (arXiv 2412.19437 section 3.2)."""
    return cut.routed * shape.hidden * (KEPT[layout.dispatch] + ITEM)


def copied_bytes(shape: Shape, layout: Layout, cut: Cut, real: float) -> float:
    """Of tokens, once for each of their real experts, that those who share an expert's matrices need in common."""
    return ITEM * cut.routed * real * layout.etp * shape.hidden


def row_bytes(shape: Shape, cut: Cut) -> float:
    """Of n-gram rows that a device's tokens look up."""
    return cut.routed * lookup_bytes(shape)


def stage_bytes(shape: Shape, layout: Layout) -> float:
    """Of the residual stream of a micro-batch between two stages, over a tensor-parallel group."""
    return 2.0 * layout.micro_batch * layout.sequence / layout.cp * shape.hidden


# Once a step


def summed(shape: Shape, layout: Layout, held: Held) -> list[Summed]:
    """Parameters of a stage by who holds them: all but experts, experts, n-gram tables."""
    apart = layout.ep * layout.etp
    stage = layout.dp * layout.cp * layout.tp
    dense, routed = dense_numbers(layout, held), held.routed / apart
    classes = [
        Summed(dense, dense, Group(layout.dp * layout.cp, layout.tp)),
        Summed(routed, routed, Group(stage // apart, apart)),
    ]
    if held.tables:
        # Only rows that were looked up have gradients, each device's own, and only those change.
        rows = layout.tokens * shape.ngram_tables * shape.ngram_width / layout.embp
        tables, members = held.tables / layout.embp, stage // layout.embp
        classes.append(Summed(min(tables, rows / members), min(tables, rows), Group(members, layout.embp)))
    return [each for each in classes if each.weights and each.group.size > 1]


def dense_numbers(layout: Layout, held: Held) -> float:
    """Parameters on a device: all but experts and n-gram tables."""
    tp = layout.tp
    cut = sum(numbers / (min(tp, limit) if limit else tp) for limit, numbers in held.cut)
    return cut + held.whole + (held.ends - held.positions) / tp + held.positions


def number_bytes(layout: Layout) -> tuple[float, float]:
    """Bytes of a gradient's number, and of a weight's."""
    return Rules().gradient, WIDTHS["fp32" if layout.precision == "fp32" else "bf16"]


# Sums


def sent(shape: Shape, layout: Layout, stage: int = 0) -> Mapping[str, float]:
    """Bytes that a device of a pipeline stage sends to others in a step, by dimension; none where none are sent.

    Token copies go straight to each rank that holds a chosen expert, and routing is even. A pipeline stage has
    neighbours on both sides, as most have: the ends send half as much.

    Args:
        stage: which one; under DualPipe a device works by halves on this one and the one opposite.

    Raises:
        ConfigError: `layout.layers` does not fit the model.
    """
    both = layout.schedule == "dual" and layout.pp > 1
    stages = (stage, layout.pp - 1 - stage) if both else (stage,)
    found: defaultdict[str, float] = defaultdict(float)
    for one in stages:
        for dimension, size in _of_passes(shape, layout, one):
            found[dimension] += layout.micro_batches / len(stages) * size
        found["dp"] += _once(shape, layout, held_on(shape, layout, one))
    return {dimension: size for dimension, size in found.items() if size}


def _of_passes(shape: Shape, layout: Layout, stage: int) -> Iterator[tuple[str, float]]:
    """Of one micro-batch on a stage."""
    cut = cut_of(layout)
    own = parts_of(shape, layout, stage)
    for kind, layers in enumerate(shape.layers):
        count = sum(part.layers[kind] for part in own)
        yield from ((dimension, count * size) for dimension, size in _of_layer(shape, layout, cut, layers))
    if own[0].first:
        yield "tp", _gathered(state_bytes(shape, cut), layout.tp) * _times(layout, embedding_rounds(layout))
        yield "embp", 2.0 * _gathered(row_bytes(shape, cut), layout.embp)
    if own[-1].last:
        yield "tp", _gathered(state_bytes(shape, cut), layout.tp) * _times(layout, end_rounds(shape, layout))
        draft = draft_step(shape)
        if draft is not None:
            for dimension, size in _of_layer(shape, layout, cut, draft):
                yield dimension, shape.draft_steps * size
    if layout.pp > 1:
        size = stage_bytes(shape, layout)
        whole = size / layout.tp + (0.0 if layout.sequence_parallel else _gathered(size, layout.tp))
        yield "pp", 2.0 * layout.parts * whole


def _of_layer(shape: Shape, layout: Layout, cut: Cut, layers: Layers) -> Iterator[tuple[str, float]]:
    yield "tp", _gathered(state_bytes(shape, cut), layout.tp) * _times(layout, layer_rounds(shape, layout, layers))
    yield "tp", _gathered(chosen_bytes(layout, cut, layers), layout.tp) * sum(chosen_rounds(layout, layers))
    yield "cp", _gathered(key_bytes(layout, layers), layout.cp) * sum(key_rounds(layout, layers))
    experts = layers.experts
    if experts is None:
        return
    copies = reached(replace(experts, reach=0), layout.ep)
    one_way = copies * _gathered(routed_bytes(shape, layout, cut), layout.ep)
    one_way += 2.0 * _gathered(copied_bytes(shape, layout, cut, experts.real), layout.etp)
    yield "ep", (3.0 if layout.recompute == "full" else 2.0) * one_way


def _once(shape: Shape, layout: Layout, held: Held) -> float:
    """Gradients scattered and weights gathered, or gradients summed everywhere."""
    gradient, weight = number_bytes(layout)
    size = 0.0
    for gradients, weights, group in summed(shape, layout, held):
        both = gradient * gradients + weight * weights if layout.zero else 2.0 * gradient * gradients
        size += _gathered(both, group.size)
    return size


def _times(layout: Layout, rounds: Rounds) -> float:
    return rounds.forward + rounds.backward + (rounds.again if layout.recompute == "full" else 0.0)


def _gathered(size: float, members: int) -> float:
    """Bytes that one of so many sends, until all have what each has a share of."""
    return size * (1.0 - 1.0 / members)
