"""Collectives over tiers of links: closed forms, brute force over random routing, limits."""

from __future__ import annotations

import random

import pytest

from homegrown.plan.facts import Experts, Link
from homegrown.plan.network import (
    Group,
    all_gather,
    all_reduce,
    all_to_all,
    expert_traffic,
    reduce_scatter,
    send,
    spans,
)

NODE = Link("node", 8, 100e9, 100e9, 0.0)
POD = Link("pod", 64, 50e9, 50e9, 0.0)
WORLD = Link("network", 0, 10e9, 10e9, 0.0)
LINKS = (NODE, POD, WORLD)


def test_spans() -> None:
    inside = spans(LINKS, Group(4))
    assert [(span.inner, span.outer) for span in inside] == [(1, 4)]
    assert [(span.inner, span.outer) for span in spans(LINKS, Group(256))] == [(1, 8), (8, 64), (64, 256)]
    assert [(span.inner, span.outer) for span in spans(LINKS, Group(16, 8))] == [(1, 8), (8, 16)]
    assert [(span.inner, span.outer) for span in spans(LINKS, Group(3, 100))] == [(1, 3)]
    assert spans(LINKS, Group(1)) == ()


def test_ring_inside_a_node() -> None:
    """A ring moves (n - 1) / n of the bytes over each link."""
    assert all_gather(LINKS, Group(8), 8e9) == pytest.approx(7e9 / 100e9)
    assert reduce_scatter(LINKS, Group(8), 8e9) == pytest.approx(7e9 / 100e9)
    assert all_reduce(LINKS, Group(8), 8e9) == pytest.approx(14e9 / 100e9)


def test_nodes_share_their_links_outwards() -> None:
    """Each of eight devices fetches an eighth of what its node lacks."""
    within, between = 16e9 * 7 / 8 / 100e9, 16e9 / 8 * 1 / 2 / 50e9
    assert all_gather(LINKS, Group(16), 16e9) == pytest.approx(max(within, between))
    alone = all_gather(LINKS, Group(2, 8), 16e9)
    assert alone == pytest.approx(8e9 / 50e9)


def test_latency_grows_with_the_logarithm() -> None:
    links = (Link("network", 0, 1e12, 1e12, 1e-5),)
    assert all_gather(links, Group(2), 0.0) == pytest.approx(1e-5)
    assert all_gather(links, Group(1024), 0.0) == pytest.approx(1e-4)


def test_all_to_all_is_bound_by_its_scarcest_tier() -> None:
    size = 64e9
    assert all_to_all(LINKS, Group(64), size) == pytest.approx(size * 56 / 64 / 50e9)
    assert all_to_all(LINKS, Group(8), size) == pytest.approx(size * 7 / 8 / 100e9)


def test_mesh_gives_a_pair_a_part_of_the_links() -> None:
    mesh = (Link("node", 8, 56e9, 8e9, 0.0),)
    assert all_gather(mesh, Group(8), 8e9) == pytest.approx(7e9 / 56e9)
    assert all_gather(mesh, Group(2), 8e9) == pytest.approx(4e9 / 8e9)
    assert send(mesh, 1, 8e9) == pytest.approx(1.0)


def test_send_takes_the_nearest_tier_that_joins_both() -> None:
    assert send(LINKS, 4, 1e9) == pytest.approx(0.01)
    assert send(LINKS, 8, 1e9) == pytest.approx(0.02)
    assert send(LINKS, 64, 1e9) == pytest.approx(0.1)


def counted(experts: Experts, ranks: int, node: int, tokens: int, seed: int = 1) -> tuple[float, float]:
    """Copies of a token that cross the network, and links inside nodes, when it is sent hop by hop; brute force."""
    draw = random.Random(seed)
    held = experts.routed // ranks
    network = inside = 0
    for _ in range(tokens):
        sender = draw.randrange(ranks)
        everywhere = range(experts.routed + experts.zero)
        chosen = [one for one in draw.sample(everywhere, experts.topk) if one < experts.routed]
        targets = {one // held for one in chosen}
        nodes = {target // node for target in targets}
        network += sum(place != sender // node for place in nodes)
        # In every node the copy comes to the device of the sender's own place and goes on from there.
        inside += sum(target % node != sender % node for target in targets)
    return network / tokens, inside / tokens


@pytest.mark.parametrize(("routed", "zero", "topk", "ranks"), [(256, 0, 8, 64), (64, 0, 4, 16), (128, 64, 12, 32)])
def test_expert_traffic_against_random_routing(routed: int, zero: int, topk: int, ranks: int) -> None:
    real = topk * routed / (routed + zero)
    experts = Experts(routed=routed, zero=zero, topk=topk, width=8, real=real)
    network, inside = counted(experts, ranks, 8, 20000)
    far = (Link("node", 8, 1e30, 1e30, 0.0), Link("network", 0, 1.0, 1.0, 0.0))
    near = (Link("node", 8, 1.0, 1.0, 0.0), Link("network", 0, 1e30, 1e30, 0.0))
    # A token's real choices vary where there are zero experts; the model takes their mean.
    tolerance = 0.06 if zero else 0.02
    assert expert_traffic(far, Group(ranks), experts).per_byte == pytest.approx(network, rel=tolerance)
    assert expert_traffic(near, Group(ranks), experts).per_byte == pytest.approx(inside, rel=tolerance)


def test_zero_experts_are_not_sent() -> None:
    links = (Link("network", 0, 1.0, 1.0, 0.0),)
    plain = Experts(routed=512, topk=12, width=8, real=12.0)
    zero = Experts(routed=512, zero=256, topk=12, width=8, real=8.0)
    ratio = expert_traffic(links, Group(512), zero).per_byte / expert_traffic(links, Group(512), plain).per_byte
    assert ratio == pytest.approx(8 / 12, rel=0.01)


def test_routing_limited_to_nodes() -> None:
    """Four of eight nodes, of which one in eight is the sender's own: 3.5 copies at most."""
    links = (Link("node", 8, 1e30, 1e30, 0.0), Link("network", 0, 1.0, 1.0, 0.0))
    free = Experts(routed=256, topk=8, width=8, real=8.0)
    limited = Experts(routed=256, topk=8, width=8, real=8.0, reach=4)
    assert expert_traffic(links, Group(64), limited).per_byte == pytest.approx(3.5)
    assert expert_traffic(links, Group(64), free).per_byte > 4.5
