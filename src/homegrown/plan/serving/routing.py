"""Tokens on their way to experts: how many experts a pass touches, how full the fullest device is, what is sent."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from homegrown.plan.facts import Experts
from homegrown.plan.routing import largest_of, reached
from homegrown.plan.serving.clock import Clock
from homegrown.plan.serving.links import all_to_all, levels
from homegrown.plan.serving.setup import WIDTH, Pool, Precision


@dataclass(frozen=True)
class Routing:
    """Experts of the fullest device: how many of them get tokens, and how many each of those gets."""

    touched: float
    rows: float


def routed(clock: Clock, pool: Pool, experts: Experts, rows: float) -> Routing:
    """Where the tokens of a pass go, `rows` of each group.

    An expert is touched with probability 1 - (1 - k/E)^T by T tokens of k real choices among E experts; its mean
    number of tokens is T k / E. Devices differ by chance (the binomial's deviation of the touched, the Poisson
    deviation of the tokens) and because some experts are more popular; all wait for the fullest of `ep` devices.
    """
    tokens = rows * pool.groups / (pool.devices / pool.experts_over)
    held = (experts.routed + pool.spares) / pool.experts_over
    chance = 1 - (1 - min(experts.real / experts.routed, 1.0)) ** tokens
    worst = largest_of(pool.experts_over)
    touched = min(held * chance + worst * math.sqrt(held * chance * (1 - chance)), math.ceil(held))
    mean = tokens * experts.real / pool.experts_over
    popularity = clock.constants.popularity * (clock.constants.rebalanced if pool.spares else 1.0)
    deviation = math.sqrt((popularity * mean) ** 2 / held + mean)
    most = mean + worst * deviation
    return Routing(touched=max(touched, min(1.0, most)), rows=max(most / max(touched, 1e-9), 1.0))


def traffic(clock: Clock, pool: Pool, precision: Precision, experts: Experts, rows: float, hidden: int) -> float:
    """Seconds of sending tokens to their experts and the results back.

    Each device sends its part of its group's tokens. In small passes a token goes to each chosen expert's device by
    itself (low-latency kernels), with a count to every expert and a flag from each; in large ones (`LARGE` tokens or
    more) once to each node that holds any of them. Tokens of zero-computation experts stay where they are, if the
    deployment knows that.
    """
    if pool.exchange == "replicated" or pool.experts_over == 1:
        return 0.0
    own = rows / pool.tp
    chosen = experts.real if pool.zero_aware else float(experts.topk)
    if own < LARGE:
        return sum(
            all_to_all(
                clock, pool.experts_over, own * chosen * hidden * width, own * chosen + experts.routed + pool.spares
            )
            for width in (WIDTH[precision.dispatch], WIDTH["bf16"])
        )
    sent = copies(clock, pool, experts, chosen)
    return sum(
        all_to_all(clock, pool.experts_over, own * sent * hidden * width, pool.experts_over)
        for width in (WIDTH[precision.dispatch], WIDTH["bf16"])
    )


def copies(clock: Clock, pool: Pool, experts: Experts, chosen: float) -> float:
    """Times that a token leaves its device when one copy serves all experts of a node (arXiv 2412.19437 section 3.2.2);
    within a single node, when one serves all experts of a device."""
    nodes = round(pool.experts_over / next(levels(clock, pool.experts_over))[2])
    if nodes > 1:
        return reached(replace(experts, real=chosen), nodes)
    return reached(replace(experts, real=chosen, reach=0), pool.experts_over)


LARGE = 512
"""Tokens of a device from which kernels for throughput are used (DeepEP recommends the others for fewer than 256)."""
