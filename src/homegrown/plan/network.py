"""Seconds of collectives over tiers of links, by a hierarchical alpha-beta model.

A group of `size` devices, `stride` apart, spreads over nested domains: so many of it in a node, so many in a superpod,
all of it in the cluster. A collective goes tier by tier, a hop of it costs latency, and since it goes in pieces, all
tiers work at once and the slowest sets its pace (alpha-beta model and bytes of each phase: Thakur, Rabenseifner, Gropp
2005, doi 10.1177/1094342005051521; hierarchical collectives: arXiv 1807.11205 section 3.3).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from homegrown.plan.facts import Experts, Link
from homegrown.plan.routing import reached


class Group(NamedTuple):
    """Devices that communicate: how many, and how far two neighbours are apart in the numbering of devices."""

    size: int
    stride: int = 1


class Span(NamedTuple):
    """A tier that a group uses.

    Attributes:
        inner, outer: members of the group in one domain of the tier below, and in one of this tier.
        bandwidth: bytes/s of a device to its peers in other domains of the tier below.
        latency: seconds of a hop.
    """

    inner: float
    outer: float
    bandwidth: float
    latency: float

    @property
    def domains(self) -> float:
        """Domains of the tier below that one of this tier joins."""
        return self.outer / self.inner


@lru_cache(maxsize=65536)
def spans(links: tuple[Link, ...], group: Group) -> tuple[Span, ...]:
    """Tiers that a group uses, from the innermost. Groups that do not fill domains evenly count as if they did."""
    found = []
    inner = 1.0
    for link in links:
        held = group.size if not link.size else min(group.size, max(1.0, link.size / group.stride))
        if held > inner:
            # In a mesh a device reaches each peer by a part of its links only.
            peers = link.pair * (held - inner) if link.pair < link.bandwidth else link.bandwidth
            found.append(Span(inner, held, min(link.bandwidth, peers), link.latency))
            inner = held
    return tuple(found)


def all_gather(links: tuple[Link, ...], group: Group, size: float) -> float:
    """Seconds until every device has all of `size` bytes, of which each holds an equal share.

    At a tier whose domains hold n below, a device fetches what n peers share: size / n (k - 1) / k of k domains.
    """
    slowest = waiting = 0.0
    for span in spans(links, group):
        moved = size / span.inner * (1.0 - span.inner / span.outer)
        slowest = max(slowest, moved / span.bandwidth)
        waiting += span.latency * max(1.0, math.log2(span.domains))
    return slowest + waiting


def reduce_scatter(links: tuple[Link, ...], group: Group, size: float) -> float:
    """Seconds until each device has its share of a sum of `size` bytes: an all-gather backwards."""
    return all_gather(links, group, size)


def all_reduce(links: tuple[Link, ...], group: Group, size: float) -> float:
    """Seconds until every device has a sum of `size` bytes: reduce-scatter, then all-gather."""
    return 2.0 * all_gather(links, group, size)


def all_to_all(links: tuple[Link, ...], group: Group, size: float) -> float:
    """Seconds until each device has sent `size` bytes, split evenly over the group (itself included)."""
    slowest = waiting = 0.0
    for span in spans(links, group):
        slowest = max(slowest, size * (span.outer - span.inner) / group.size / span.bandwidth)
        waiting = max(waiting, span.latency)
    return slowest + waiting


def send(links: tuple[Link, ...], stride: int, size: float) -> float:
    """Seconds to send `size` bytes to the device so far away in the numbering."""
    for link in links:
        if not link.size or stride < link.size:
            return link.latency + size / link.pair
    return links[-1].latency + size / links[-1].pair


class Traffic(NamedTuple):
    """Seconds to bring tokens to their experts: per byte of a token's state, and besides."""

    per_byte: float
    latency: float


@lru_cache(maxsize=65536)
def expert_traffic(links: tuple[Link, ...], group: Group, experts: Experts) -> Traffic:
    """What it takes to send one token of each device to its real experts, or their answers back.

    Zero-computation experts answer where the token is. A copy goes once to every domain that holds a chosen expert
    (a node, say), to the device of the sender's own place there, and from it on to those that hold the experts, once
    each (arXiv 2412.19437 section 3.2.2). Over a tier go copies for all domains of the tier below that are reached,
    save those already in the right one: the share inner / outer of them. `experts.reach` limits the domains of the
    outermost tier only: it is about nodes.
    """
    anywhere = replace(experts, reach=0)
    slowest = waiting = 0.0
    found = spans(links, group)
    for span in found:
        places = max(1, round(group.size / span.inner))
        limited = span is found[-1] and len(found) > 1
        copies = reached(experts if limited else anywhere, places) * (1.0 - span.inner / span.outer)
        slowest = max(slowest, copies / span.bandwidth)
        waiting += span.latency
    return Traffic(slowest, waiting)
