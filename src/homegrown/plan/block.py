"""Seconds of a layer, the embedding or the head for one micro-batch: computation, traffic, and what of it shows.

Traffic hides behind computation that does not wait for it, and slows it: a share of the device moves data meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from homegrown.plan.constants import Constants
from homegrown.plan.facts import Layers, Link, Shape
from homegrown.plan.kernel import Cut
from homegrown.plan.layout import Layout
from homegrown.plan.network import Group, all_gather, all_to_all, expert_traffic
from homegrown.plan.roofline import Price
from homegrown.plan.routing import imbalance
from homegrown.plan.traffic import (
    Rounds,
    chosen_bytes,
    chosen_rounds,
    copied_bytes,
    draft_step,
    embedding_rounds,
    end_rounds,
    key_bytes,
    key_rounds,
    layer_rounds,
    routed_bytes,
    row_bytes,
    state_bytes,
)  # fmt: skip


class Exchange(NamedTuple):
    """Seconds of traffic of one dimension in a forward and in a backward pass, and seconds of computation behind which
    each of them can hide. Where a pass hides behind the other's computation too (`paired`), both count together."""

    dimension: str
    forward: float
    backward: float
    forward_window: float = 0.0
    backward_window: float = 0.0
    paired: bool = False

    def hidden(self) -> tuple[float, float]:
        """Seconds behind computation, of each pass."""
        if not self.paired:
            return min(self.forward, self.forward_window), min(self.backward, self.backward_window)
        whole = self.forward + self.backward
        behind = min(whole, self.forward_window + self.backward_window)
        return behind * self.forward / whole, behind * self.backward / whole


class BlockTime(NamedTuple):
    """Seconds of one block for one micro-batch.

    Attributes:
        forward, backward: passes with all that shows in them. weights: gradients of weights, part of `backward`.
        cover_forward, cover_backward: computation in them, nothing of it done again: what other traffic hides behind.
        compute: by component of the model, recomputation and the share that hidden traffic takes among them.
        exposed, hidden: traffic by dimension.
        imbalance: waiting for the fullest expert rank, in computation.
        again_flops: operations of recomputation on a device.
    """

    forward: float
    backward: float
    weights: float
    cover_forward: float
    cover_backward: float
    compute: dict[str, float]
    exposed: dict[str, float]
    hidden: dict[str, float]
    imbalance: float
    again_flops: float


def assemble(price: Price, exchanges: list[Exchange], fullest: float, share: float) -> BlockTime:
    """Put computation and traffic together.

    Args:
        price: computation.
        exchanges: traffic.
        fullest: tokens of the fullest expert rank over their mean.
        share: of the device, taken by hidden traffic.
    """
    slowed = share / (1.0 - share)
    late = (fullest - 1.0) * price.experts_forward, (fullest - 1.0) * price.experts_backward
    forward, backward = price.forward + late[0], price.backward + price.again + late[1]
    compute = dict(price.parts)
    if price.again:
        compute["recomputation"] = price.again
    exposed: dict[str, float] = {}
    hidden: dict[str, float] = {}
    taken = 0.0
    for exchange in exchanges:
        behind = exchange.hidden()
        taken += slowed * sum(behind)
        forward += exchange.forward - behind[0] + slowed * behind[0]
        backward += exchange.backward - behind[1] + slowed * behind[1]
        dimension = exchange.dimension
        shows = exchange.forward + exchange.backward - sum(behind)
        exposed[dimension] = exposed.get(dimension, 0.0) + shows
        hidden[dimension] = hidden.get(dimension, 0.0) + sum(behind)
    if taken:
        compute["moving data"] = taken
    return BlockTime(
        forward, backward, price.weights, price.forward, price.backward, compute, exposed, hidden, sum(late),
        price.again_flops,
    )  # fmt: skip


class Traffic:
    """Traffic of blocks under one cut of the layers, on one machine.

    Args:
        cut: sizes. layout: whether traffic hides, and what experts' traffic is made of.
    """

    def __init__(self, shape: Shape, layout: Layout, cut: Cut, links: tuple[Link, ...], constants: Constants) -> None:
        self._shape, self._layout, self._cut = shape, layout, cut
        self._links, self._constants = links, constants
        self._gathered = all_gather(links, Group(layout.tp), state_bytes(shape, cut))
        self._share = layout.comm_share or constants.traffic

    @property
    def share(self) -> float:
        """Of a device, taken by traffic behind computation."""
        return self._share

    def embedding(self, price: Price) -> list[Exchange]:
        """Words are summed over those who hold them; n-gram rows come from those who hold their tables."""
        layout, found = self._layout, []
        if layout.tp > 1:
            rounds = embedding_rounds(layout)
            found.append(Exchange("tp", rounds.forward * self._gathered, rounds.backward * self._gathered))
        if self._shape.ngram_tables and layout.embp > 1:
            moved = all_to_all(self._links, Group(layout.embp), row_bytes(self._shape, self._cut))
            # Tokens are known before the step begins: rows can come while anything else is computed.
            window = price.forward + price.backward if layout.overlap else 0.0
            found.append(Exchange("embp", moved, moved, window, window, paired=layout.overlap))
        return found

    def end(self, price: Price, fullest: float) -> list[Exchange]:
        """The head works on all tokens of a tensor-parallel group, in every draft step too, behind a draft block."""
        layout, draft, steps, found = self._layout, draft_step(self._shape), self._shape.draft_steps, list[Exchange]()
        if layout.tp > 1:
            found += self._tensor(price, end_rounds(self._shape, layout))
        if draft is not None:
            # All steps' blocks are in the price: each has its share of what can hide traffic.
            for exchange in self.layer(draft, price, fullest):
                found.append(exchange._replace(forward=steps * exchange.forward, backward=steps * exchange.backward))
        return found

    def layer(self, layers: Layers, price: Price, fullest: float) -> list[Exchange]:
        """All traffic of a layer."""
        layout, found = self._layout, []
        if layout.tp > 1:
            found += self._tensor(price, layer_rounds(self._shape, layout, layers))
            found += self._chosen(layers)
        if layout.cp > 1:
            found.append(self._context(layers, price))
        if layers.experts is not None and layout.ep * layout.etp > 1:
            found.append(self._experts(layers, price, fullest))
        return found

    def _tensor(self, price: Price, rounds: Rounds) -> list[Exchange]:
        """Blocks whose matrices are cut: traffic with a product to hide behind, in pieces, and the rest."""
        layout, gathered = self._layout, self._gathered
        pieces = 1.0 - 1.0 / layout.tp if layout.tp_overlap else 0.0
        forward, first, behind = rounds.forward * gathered, rounds.opening * gathered, rounds.behind * gathered
        if layout.recompute == "full":
            first += rounds.again * gathered
        front = min(forward * pieces, price.products_forward)
        return [
            Exchange("tp", forward, first, front, first * pieces),
            Exchange("tp", 0.0, behind, 0.0, max(price.products_backward - first * pieces, 0.0)),
        ]

    def _chosen(self, layers: Layers) -> Iterator[Exchange]:
        """Keys that indexers chose, and what they learn from, in the open."""
        forward, backward = chosen_rounds(self._layout, layers)
        if forward:
            moved = all_gather(self._links, Group(self._layout.tp), chosen_bytes(self._layout, self._cut, layers))
            yield Exchange("tp", forward * moved, backward * moved)

    def _context(self, layers: Layers, price: Price) -> Exchange:
        """Keys and values of all are gathered behind attention's cores."""
        layout = self._layout
        moved = all_gather(self._links, Group(layout.cp, layout.tp), key_bytes(layout, layers))
        front, back = key_rounds(layout, layers)
        forward, backward = (price.core_forward, price.core_backward) if layout.overlap else (0.0, 0.0)
        return Exchange("cp", front * moved, back * moved, forward, backward)

    def _experts(self, layers: Layers, price: Price, fullest: float) -> Exchange:
        """Tokens to the real experts and answers back; the backward pass does both in the other direction, with
        gradients (arXiv 2412.19437 section 3.2)."""
        layout, cut, experts = self._layout, self._cut, layers.experts
        if experts is None:
            raise ValueError("a layer without experts has no traffic to them")
        one_way = 0.0
        if layout.ep > 1:
            traffic = expert_traffic(self._links, Group(layout.ep, layout.etp), experts)
            size = routed_bytes(self._shape, layout, cut)
            one_way = fullest * size * traffic.per_byte + 2.0 * traffic.latency
        if layout.etp > 1:
            copies = copied_bytes(self._shape, layout, cut, experts.real)
            one_way += 2.0 * all_gather(self._links, Group(layout.etp), copies)
        repeated = one_way if layout.recompute == "full" else 0.0
        if not (layout.overlap and layout.ep_overlap):
            return Exchange("ep", one_way, one_way + repeated)
        if layers.overlap:
            return Exchange("ep", one_way, one_way + repeated, *_beside(layers, price))
        # One micro-batch's forward pass runs beside another's backward pass, whose computation hides its traffic.
        paired = layout.micro_batches > 1
        forward, backward = (price.forward, price.backward + price.again) if paired else (0.0, 0.0)
        return Exchange("ep", one_way, one_way + repeated, forward, backward, paired)


def _beside(layers: Layers, price: Price) -> tuple[float, float]:
    """What shortcut-connected experts have beside them: all of the layer but themselves and the sublayer of attention
    before them (arXiv 2404.05019, arXiv 2509.01322 section 2.2)."""
    parts = price.parts
    before = parts.get("attention", 0.0) / layers.sublayers
    whole = price.forward + price.backward
    dense = whole - parts.get("experts", 0.0) - parts.get("router", 0.0) - before
    share = max(dense, 0.0) / whole if whole else 0.0
    return share * price.forward, share * price.backward


def fullest_rank(layers: Layers, layout: Layout, cut: Cut, skew: float) -> float:
    """Tokens of the fullest expert rank over their mean."""
    if layers.experts is None or layout.balanced or layout.ep == 1:
        return 1.0
    return imbalance(layers.experts, layout.ep, cut.routed * layout.ep, skew)
