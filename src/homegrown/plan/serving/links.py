"""Collectives over a hierarchy of links, by alpha-beta: seconds for the devices of an instance."""

from __future__ import annotations

import math
from collections.abc import Iterator

from homegrown.plan.facts import Link
from homegrown.plan.serving.clock import Clock

UNDER_WAY = 48
"""Messages that a device has under way at once. With a hop of 7.5 us it reproduces dispatch over 8 to 256 ranks in
DeepEP, docs/legacy.md, to 20 %, and with one of 20 us what UCCL-EP, ep/README.md, measured over a slower network to a
third."""


def levels(clock: Clock, devices: int) -> Iterator[tuple[Link, int, int]]:
    """The links that so many neighbouring devices need, smallest first: link, members below it, and above."""
    below = 1
    for link in clock.machine.links:
        above = devices if link.size == 0 else min(devices, max(link.size, below))
        if above > below:
            yield link, below, above
        below = above


def all_reduce(clock: Clock, devices: int, size: float) -> float:
    """Seconds until every device has the sum of all devices' `size` bytes.

    Reduced within the smallest links, across larger ones, and gathered back (Thakur et al. 2005, section 4): twice
    log2 n hops and twice (n - 1)/n of the bytes at each level, of which the next level has the n-th part.
    """
    return 2 * _scatter(clock, devices, size) * clock.constants.model_error


def all_gather(clock: Clock, devices: int, size: float) -> float:
    """Seconds until every device has the parts of all, `size` bytes together; of a reduce-scatter too."""
    return _scatter(clock, devices, size) * clock.constants.model_error


def _scatter(clock: Clock, devices: int, size: float) -> float:
    seconds = 0.0
    for link, below, above in levels(clock, devices):
        ways = math.ceil(above / below)
        share = size / below * (ways - 1) / ways
        seconds += link.latency * math.ceil(math.log2(ways)) + share / (link.bandwidth * clock.constants.tier_share)
    return seconds + clock.constants.kernel_floor / 2 if devices > 1 else 0.0


def all_to_all(clock: Clock, devices: int, size: float, messages: float) -> float:
    """Seconds until each device has sent `size` bytes in all, spread evenly over all devices of the instance.

    Levels work side by side. A level moves bytes at its links' pace, and messages at `UNDER_WAY` a latency (Little's
    law), whichever is slower.

    Args:
        messages: that a device sends in all.
    """
    seconds = 0.0
    for link, below, above in levels(clock, devices):
        part = (above - below) / devices
        pace = min(link.bandwidth, link.pair * (above - below)) * clock.constants.traffic_share
        sending = max(size * part / pace, messages * part * link.latency / UNDER_WAY)
        seconds = max(seconds, link.latency + sending)
    return seconds * clock.constants.model_error + clock.constants.kernel_floor if devices > 1 else 0.0
