"""Prompts chunk by chunk, and queues of them against a simulation."""

import heapq

import numpy as np
import pytest

from homegrown.plan.serving import Requests
from homegrown.plan.serving.prefill import Prefill, usable, waiting
from homegrown.plan.serving.setup import Pool, Precision


@pytest.fixture(scope="module")
def long(longcat, clock_of):
    pool = Pool(devices=32, tp=32, chunk=8192, overlap=False, index_everywhere=True)
    return Prefill(clock_of("p5en-h200"), longcat, pool, Precision())


def test_a_long_prompt_is_the_sum_of_its_chunks(long):
    tokens = 40 * 8192 + 1000
    chunks = sum(long.at(index * 8192, 8192) for index in range(40)) + long.at(40 * 8192, 1000)
    assert long.prompt(tokens) == pytest.approx(chunks, rel=1e-3)


def test_a_token_costs_a_plus_b_for_each_before_it(long):
    a, b = long.line(1_048_576)
    for position in (150_000, 500_000, 900_000):
        assert long.at(position, 8192) / 8192 == pytest.approx(a + b * (position + 4096), rel=0.01)
    # Published: a of 134 to 204 us and b of 0.46 to 0.60 ns, from totals of whole prompts on these devices.
    assert 0.46e-9 < b < 0.60e-9 and 70e-6 < a < 204e-6


def test_found_tokens_are_not_computed_but_seen(long):
    whole, half = long.prompt(131_072), long.prompt(131_072, 65_536)
    assert long.prompt(65_536) < half < whole
    assert half + long.prompt(65_536) == pytest.approx(whole, rel=0.01)


def test_short_prompts_share_chunks(long):
    each = long.request(Requests(input=1024, output=1))
    assert each < 0.7 * long.prompt(1024)
    assert 8 * each == pytest.approx(sum(long.split(Requests(input=1024, output=1)).values()), rel=1e-9)


def simulate(use, servers, deviation, requests=200_000, seed=0):
    """Mean wait of Poisson arrivals at so many servers, service gamma with mean one."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / (use * servers), requests))
    services = random.gamma(1 / deviation**2, deviation**2, requests)
    free = [0.0] * servers
    waited = 0.0
    for arrival, service in zip(arrivals, services, strict=True):
        start = max(arrival, heapq.heappop(free))
        waited += start - arrival
        heapq.heappush(free, start + service)
    return waited / requests


@pytest.mark.parametrize(("use", "servers", "deviation"), [(0.7, 1, 1.0), (0.8, 4, 1.0), (0.9, 16, 1.0), (0.8, 2, 0.5)])
def test_waiting_is_that_of_a_simulated_queue(use, servers, deviation):
    assert waiting(use, 1.0, deviation, servers) == pytest.approx(simulate(use, servers, deviation), rel=0.15)


def test_as_much_is_used_as_the_bound_allows():
    use = usable(2.0, 1.0, 1.0, 1.0, 4, 0.95)
    assert 0 < use < 0.95 and 1.0 + waiting(use, 1.0, 1.0, 4) == pytest.approx(2.0, rel=1e-3)
    assert usable(0.0, 1.0, 1.0, 1.0, 4, 0.9) == usable(100.0, 1.0, 1.0, 1.0, 4, 0.9) == 0.9
    assert usable(0.5, 1.0, 1.0, 1.0, 4, 0.9) == 0.0
