"""Expert load, against simulation."""

import math

import numpy as np
import pytest

from homegrown.plan.facts import Experts
from homegrown.plan.routing import imbalance, largest_of, reached, real_choices


def routed(experts, tokens, seed, popularity=None):
    """Choices of tokens: distinct experts, the zero ones beyond the routed; [tokens, topk]."""
    random = np.random.default_rng(seed)
    total = experts.routed + experts.zero
    keys = random.exponential(size=(tokens, total))
    if popularity is not None:
        keys = keys / popularity
    return np.argpartition(keys, experts.topk, axis=1)[:, : experts.topk]


def made(routed=64, zero=0, topk=8):
    mean, spread = real_choices(routed, zero, topk)
    return Experts(routed=routed, zero=zero, topk=topk, width=1, real=mean, spread=spread)


@pytest.mark.parametrize(("number", "zero", "topk"), [(96, 32, 12), (24, 8, 4)])
def test_real_choices_of_a_token(number, zero, topk):
    experts = made(number, zero, topk)
    real = (routed(experts, 20000, 0) < number).sum(1)
    assert experts.real == pytest.approx(real.mean(), rel=0.01)
    assert experts.spread == pytest.approx(real.std(), rel=0.02)


def test_a_mean_that_is_held_and_no_zero_experts():
    assert real_choices(512, 256, 12, 8.0)[0] == 8.0
    assert real_choices(256, 0, 8) == (8.0, 0.0)
    mean, spread = real_choices(768, 128, 12, 7.85)
    assert mean == 7.85 and 1.5 < spread < 1.7


@pytest.mark.parametrize("count", [1, 2, 8, 64, 512])
def test_the_largest_of_normal_numbers(count):
    drawn = np.random.default_rng(count).standard_normal((4000, count)).max(1)
    assert largest_of(count) == pytest.approx(drawn.mean(), abs=4 * drawn.std() / math.sqrt(4000))
    if count == 2:
        assert largest_of(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-6)


@pytest.mark.parametrize(
    ("number", "zero", "topk", "ranks", "tokens"),
    [(64, 0, 8, 8, 256), (64, 0, 8, 64, 512), (96, 32, 12, 16, 512), (32, 0, 2, 4, 1024), (24, 8, 4, 2, 300)],
)
def test_the_fullest_rank_by_chance(number, zero, topk, ranks, tokens):
    experts = made(number, zero, topk)
    found = []
    for seed in range(60):
        choice = routed(experts, tokens, seed)
        load = np.bincount(choice[choice < number] // (number // ranks), minlength=ranks)
        found.append(load.max() / load.mean())
    # Excess over one, within its own noise and a tenth: the tails of small counts are not quite normal.
    excess, noise = np.mean(found) - 1, np.std(found) / math.sqrt(60)
    assert imbalance(experts, ranks, tokens) - 1 == pytest.approx(excess, rel=0.1, abs=3 * noise)


@pytest.mark.parametrize("ranks", [4, 16])
def test_popular_experts_fill_ranks(ranks):
    """Popularity varies by 30 %; choosing without replacement flattens it, so few of many experts are chosen."""
    experts, tokens, skew = made(128, 0, 4), 2000, 0.3
    found = []
    for seed in range(60):
        popularity = np.random.default_rng(1000 + seed).gamma(1 / skew**2, skew**2, 128)
        load = np.bincount(routed(experts, tokens, seed, popularity).ravel() // (128 // ranks), minlength=ranks)
        found.append(load.max() / load.mean())
    assert imbalance(experts, ranks, tokens, skew) - 1 == pytest.approx(np.mean(found) - 1, rel=0.12)


def test_imbalance_falls_with_tokens_and_rises_with_ranks():
    experts = made(256, 0, 8)
    assert imbalance(experts, 1, 4096) == 1
    by_tokens = [imbalance(experts, 64, tokens) for tokens in (1 << 12, 1 << 16, 1 << 20)]
    by_ranks = [imbalance(experts, ranks, 1 << 16) for ranks in (2, 8, 64, 256)]
    assert by_tokens == sorted(by_tokens, reverse=True) and by_ranks == sorted(by_ranks)
    assert imbalance(experts, 8, 1) <= 8
    assert imbalance(experts, 64, 1 << 20, skew=0.2) > imbalance(experts, 64, 1 << 20) + 0.1


@pytest.mark.parametrize(("number", "topk", "places"), [(64, 8, 8), (64, 8, 64), (256, 8, 4), (16, 2, 16)])
def test_places_that_a_token_reaches(number, topk, places):
    experts = made(number, 0, topk)
    where = routed(experts, 4000, 1) // (number // places)
    mean = np.mean([len(set(row)) for row in where.tolist()])
    assert reached(experts, places) == pytest.approx(mean, rel=0.01)


def test_reach_may_be_limited_and_is_less_than_one_for_few_real_choices():
    limited = Experts(routed=256, topk=8, width=1, real=8, reach=4)
    assert reached(limited, 8) == 4
    assert reached(limited, 1) == 1
    assert reached(Experts(routed=64, topk=4, width=1, real=0.0), 8) == 0
