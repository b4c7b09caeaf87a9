"""Tokens on experts, against tokens that are really thrown on them."""

from dataclasses import replace

import numpy as np
import pytest

from homegrown.plan.serving.routing import copies, routed, traffic
from homegrown.plan.serving.setup import Pool, Precision


def throw(experts, tokens, ranks, seed=0, times=200):
    """Touched experts, and tokens, of the fullest rank when each token takes distinct experts evenly."""
    random = np.random.default_rng(seed)
    touched, most = [], []
    for _ in range(times):
        order = random.random((tokens, experts.routed)).argpartition(int(experts.real), axis=1)
        counts = np.bincount(order[:, : int(experts.real)].ravel(), minlength=experts.routed)
        held = counts.reshape(ranks, -1)
        touched.append((held > 0).sum(axis=1).max())
        most.append(held.sum(axis=1).max())
    return np.mean(touched), np.mean(most)


@pytest.mark.parametrize(("tokens", "ranks"), [(8, 16), (32, 16), (128, 32)])
def test_the_fullest_rank_is_that_of_a_simulation(tokens, ranks, deepseek, clock_of):
    experts = deepseek.layers[1].experts
    clock = clock_of("hgx-h800")
    even = replace(clock, constants=replace(clock.constants, popularity=1e-9))
    found = routed(even, Pool(devices=ranks, tp=ranks, exchange="replicated"), experts, tokens)
    touched, most = throw(experts, tokens, ranks)
    assert found.touched == pytest.approx(touched, rel=0.12)
    assert found.touched * found.rows == pytest.approx(most, rel=0.15)


def test_a_token_alone_touches_its_own_experts_only(longcat, clock_of):
    experts = longcat.layers[0].experts
    found = routed(clock_of("p5en-h200"), Pool(devices=16, tp=16, exchange="replicated"), experts, 1)
    assert 1.0 <= found.touched <= experts.real


def test_zero_experts_cost_traffic_only_where_the_deployment_does_not_know_them(longcat, clock_of):
    clock, experts = clock_of("hgx-h200"), longcat.layers[0].experts
    aware, blind = (
        traffic(clock, Pool(devices=32, zero_aware=known), Precision(), experts, 128, longcat.hidden)
        for known in (True, False)
    )
    # 12 choices of which about 8 compute; counts to experts and latency are the same.
    assert 1.2 < blind / aware < 12 / experts.real


def test_copies_go_once_to_each_node(deepseek, clock_of):
    """Over 32 nodes eight experts lie on about seven; the router takes four of them at most."""
    clock, experts = clock_of("hgx-h800"), deepseek.layers[1].experts
    pool = Pool(devices=256)
    assert copies(clock, pool, experts, 8) == 4
    free = replace(experts, reach=0)
    random = np.random.default_rng(3)
    met = np.mean([len(set(random.permutation(256)[:8] // 8)) for _ in range(5000)])
    assert copies(clock, pool, free, 8) == pytest.approx(met, rel=0.01)
