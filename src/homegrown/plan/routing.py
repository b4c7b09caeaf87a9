"""How tokens fall on experts: how many of their choices compute, how uneven ranks' shares are, how far tokens go."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from homegrown.plan.facts import Experts


def real_choices(routed: int, zero: int, topk: int, mean: float = 0.0) -> tuple[float, float]:
    """Mean and standard deviation of how many of a token's choices are real experts.

    Choices are distinct. With all experts equally likely their number is hypergeometric; a mean that a controller holds
    (arXiv 2509.01322 section 2.1) shifts the share p of real choices, and the deviation follows as for draws without
    replacement: topk p (1 - p) (N - topk) / (N - 1) with N experts in all.

    Args:
        routed, zero: experts that compute, and that do not.
        topk: choices of a token.
        mean: what is held; 0 takes topk * routed / (routed + zero).
    """
    experts = routed + zero
    mean = mean or topk * routed / experts
    share = mean / topk
    variance = topk * share * (1 - share) * (experts - topk) / max(experts - 1, 1)
    return mean, math.sqrt(max(variance, 0.0))


@lru_cache(maxsize=4096)
def imbalance(experts: Experts, ranks: int, tokens: float, skew: float = 0.0) -> float:
    """Tokens of the fullest of the ranks among which experts are spread, over their mean; expected, at least 1.

    Two causes. Chance: each token puts its real choices on distinct experts, so a rank that holds the share q of them
    gets a hypergeometric number, whose variance is real * q (1 - q) (E - real) / (E - 1) plus (spread q)^2 for the
    choices' own number; tokens are independent. Popularity: experts are chosen unequally within a micro-batch (its
    text is of a few kinds), with relative deviation `skew` between experts, of which a rank of E / ranks experts sees
    the mean. The fullest of n shares, normal with variance v and covariance c, is at sqrt(v - c) times the expected
    largest of n standard normal numbers.

    Args:
        experts: of a layer.
        ranks: over which they are spread.
        tokens: that all these ranks route at once.
        skew: standard deviation of experts' popularity over its mean.
    """
    if ranks <= 1 or experts.real <= 0:
        return 1.0
    routed, real, share = experts.routed, experts.real, 1.0 / ranks
    chance = real * share * (1 - share) * max(routed - real, 0.0) / max(routed - 1, 1)
    whole = tokens * experts.spread**2
    variance = tokens * chance + whole * share * share
    covariance = (whole - ranks * variance) / (ranks * (ranks - 1))
    mean = tokens * real * share
    # Popularity adds up to one: what one rank has more, others have less.
    popular = (skew * mean) ** 2 * ranks / routed * (routed - routed / ranks) / max(routed - 1, 1)
    spread = math.sqrt(max(variance - covariance, 0.0) + popular * ranks / (ranks - 1))
    return min(1.0 + spread * largest_of(ranks) / mean, float(ranks))


@lru_cache(maxsize=1024)
def largest_of(count: int) -> float:
    """Expected largest of so many independent standard normal numbers: the integral of 1 - F(x)^n over positive x less
    that of F(x)^n over negative x (order statistics), by the midpoint rule, to about 1e-6."""
    x = np.arange(-8.0, 8.0, 0.004) + 0.002
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in x])
    none = below**count
    return float(np.where(x > 0, 1.0 - none, -none).sum() * 0.004)


@lru_cache(maxsize=4096)
def reached(experts: Experts, places: int) -> float:
    """Of so many places over which experts are spread evenly, how many hold at least one of a token's real choices.

    places * (1 - C(E - e, k) / C(E, k)) with e = E / places experts in each, where k is real and binomials go by the
    gamma function; no more than `experts.reach`, where routing is limited to so many nodes.
    """
    if places <= 1 or experts.real <= 0:
        return min(1.0, experts.real)
    routed, real, held = experts.routed, experts.real, experts.routed / places
    left = routed - held
    missed = 0.0
    if left > real:
        missed = math.exp(
            math.lgamma(left + 1) - math.lgamma(left - real + 1) - math.lgamma(routed + 1)
            + math.lgamma(routed - real + 1)
        )  # fmt: skip
    found = places * (1.0 - missed)
    return min(found, float(experts.reach)) if experts.reach else found
