"""Seconds of a layer, the embedding or the head for one micro-batch: computation, traffic, and what of it shows.

Traffic hides behind computation that does not wait for it, and slows it: a share of the device moves data meanwhile.
"""

from __future__ import annotations

from typing import NamedTuple

from homegrown.plan.constants import Constants
from homegrown.plan.facts import Attention, Layers, Link, Shape
from homegrown.plan.kernel import KEPT, Cut
from homegrown.plan.layout import Layout
from homegrown.plan.network import Group, all_gather, all_to_all, expert_traffic
from homegrown.plan.roofline import Price
from homegrown.plan.routing import imbalance
from homegrown.plan.work import lookup_bytes

ITEM = 2.0
"""Bytes of a number of an activation that travels."""


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
        self._tp = Group(layout.tp)
        self._state = ITEM * cut.tokens * shape.hidden
        self._share = layout.comm_share or constants.traffic

    @property
    def share(self) -> float:
        """Of a device, taken by traffic behind computation."""
        return self._share

    def embedding(self, price: Price) -> list[Exchange]:
        """Words are summed over those who hold them; n-gram rows come from those who hold their tables."""
        layout, found = self._layout, []
        if layout.tp > 1:
            gathered = all_gather(self._links, self._tp, self._state)
            whole = gathered if layout.sequence_parallel else 2.0 * gathered
            found.append(Exchange("tp", whole, gathered if layout.sequence_parallel else 0.0))
        if self._shape.ngram_tables and layout.embp > 1:
            size = self._cut.routed * lookup_bytes(self._shape)
            moved = all_to_all(self._links, Group(layout.embp), size)
            # Tokens are known before the step begins: rows can come while anything else is computed.
            window = price.forward + price.backward if layout.overlap else 0.0
            found.append(Exchange("embp", moved, moved, window, window, paired=layout.overlap))
        return found

    def end(self, price: Price, fullest: float) -> list[Exchange]:
        """The head works on all tokens of a tensor-parallel group, in every draft step too, behind a draft block."""
        layout, draft, steps, found = self._layout, self._shape.draft, self._shape.draft_steps, list[Exchange]()
        if layout.tp > 1:
            found += self._tensor(price, 1.0 + steps, 1.0 + steps)
        if draft is not None:
            # All steps' blocks are in the price: each has its share of what can hide traffic.
            for exchange in self.layer(draft, price, fullest):
                found.append(exchange._replace(forward=steps * exchange.forward, backward=steps * exchange.backward))
        return found

    def layer(self, layers: Layers, price: Price, fullest: float) -> list[Exchange]:
        """All traffic of a layer."""
        layout, found = self._layout, []
        if layout.tp > 1:
            shared = layers.experts is not None and layers.experts.shared > 0
            blocks = layers.sublayers + len(layers.dense) + shared
            saved = layers.sublayers * self._latent_saving(layers.attention)
            found += self._tensor(price, blocks - saved / 2.0, blocks)
        if layout.cp > 1:
            found.append(self._context(layers, price))
        if layers.experts is not None and layout.ep * layout.etp > 1:
            found.append(self._experts(layers, price, fullest))
        return found

    def _latent_saving(self, attention: Attention) -> float:
        """Share of a gathered hidden state that is saved where latents are gathered in its place."""
        if attention.kind != "mla" or not self._layout.sequence_parallel:
            return 0.0
        return 1.0 - min((attention.q_lora + attention.kv_lora + attention.rope) / self._shape.hidden, 1.0)

    def _tensor(self, price: Price, blocks: float, outputs: float) -> list[Exchange]:
        """Blocks whose matrices are cut (arXiv 2205.05198 section 4.2.2).

        Forward, with sequence parallelism, a block's input is gathered and its output scattered; without, its output is
        summed. Backward, what comes is gathered, and behind products the input is gathered again and its gradient
        scattered (or summed).
        """
        layout, gathered = self._layout, all_gather(self._links, self._tp, self._state)
        again = layout.recompute == "full"
        pieces = 1.0 - 1.0 / layout.tp if layout.tp_overlap else 0.0
        shows = 2.0 * blocks * gathered
        forward, front = shows, min(shows * pieces, price.products_forward)
        if layout.sequence_parallel:
            first, behind = outputs * gathered, 2.0 * blocks * gathered
        else:
            first, behind = 0.0, 2.0 * blocks * gathered
        if again:
            first += shows
        return [
            Exchange("tp", forward, first, front, first * pieces),
            Exchange("tp", 0.0, behind, 0.0, max(price.products_backward - first * pieces, 0.0)),
        ]

    def _context(self, layers: Layers, price: Price) -> Exchange:
        """Keys and values of all are gathered, again in the backward pass, where their gradients are scattered.

        Latent attention gathers compressed ones, and an indexer its keys.
        """
        layout, attention = self._layout, layers.attention
        if attention.kind == "mla":
            width = float(attention.kv_lora + attention.rope)
        else:
            width = attention.kv_heads / min(layout.tp, attention.kv_heads) * (attention.query + attention.value)
        width += attention.index_dim / attention.index_share
        size = ITEM * layout.micro_batch * layout.sequence * width
        moved = layers.sublayers * all_gather(self._links, Group(layout.cp, layout.tp), size)
        forward, backward = (price.core_forward, price.core_backward) if layout.overlap else (0.0, 0.0)
        repeated = 1.0 if layout.recompute == "full" else 0.0
        return Exchange("cp", moved, (2.0 + repeated) * moved, forward, backward)

    def _experts(self, layers: Layers, price: Price, fullest: float) -> Exchange:
        """Tokens to the real experts and answers back; the backward pass does both in the other direction, with
        gradients (arXiv 2412.19437 section 3.2)."""
        layout, cut, experts = self._layout, self._cut, layers.experts
        if experts is None:
            raise ValueError("a layer without experts has no traffic to them")
        hidden = self._shape.hidden
        one_way = 0.0
        if layout.ep > 1:
            traffic = expert_traffic(self._links, Group(layout.ep, layout.etp), experts)
            size = cut.routed * hidden * (KEPT[layout.dispatch] + ITEM)
            one_way = fullest * size * traffic.per_byte + 2.0 * traffic.latency
        if layout.etp > 1:
            copies = ITEM * cut.routed * experts.real * layout.etp * hidden
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
