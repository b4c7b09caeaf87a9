"""Layouts of pools: those worth looking at, the best one for a bound, and the front of throughput against latency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from homegrown.plan.facts import Cluster, Shape
from homegrown.plan.quantity import EXPECTED
from homegrown.plan.serving.capacity import capacity
from homegrown.plan.serving.clock import Clock
from homegrown.plan.serving.constants import Constants
from homegrown.plan.serving.decode import Decode
from homegrown.plan.serving.prefill import Prefill, usable
from homegrown.plan.serving.setup import Pool, Precision, Speculation, Traffic

INSTANCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Devices of an instance that are looked at, in units of nothing; those that experts divide over."""
CHUNKS = (4096, 8192, 16384)
STEPS = (1.0, 1.15, 1.35, 1.6, 2.0, 2.6, 3.4, 4.5, 6.0, 8.0, 11.0, 15.0)
"""Times per token of a sweep, as multiples of the quickest."""


@dataclass(frozen=True)
class Point:
    """A layout and a batch: tokens/s of a device against seconds of a token; both at their best guess."""

    pool: Pool
    batch: float
    tpot: float
    rate: float


@dataclass(frozen=True)
class Served:
    """What is served where: everything that layouts are compared under."""

    shape: Shape
    cluster: Cluster
    traffic: Traffic
    precision: Precision
    speculation: Speculation
    memory_share: float = 0.9

    @property
    def clock(self) -> Clock:
        """The devices at their best guess."""
        return Clock(self.cluster.machine(EXPECTED), Constants.at(EXPECTED))

    @property
    def spread(self) -> float:
        """Deviation over mean of requests' lengths."""
        return Constants.at(EXPECTED).length_spread if self.traffic.live else 0.0


def pools(served: Served, most: int, *, prefill: bool) -> Iterator[Pool]:
    """Layouts that fit the devices' memory and divide what they must, of at most so many devices."""
    heads = min(group.attention.heads for group in served.shape.layers)
    routed = [group.experts.routed for group in served.shape.layers if group.experts]
    clock, drafting = served.clock, served.speculation.steps > 0 and not prefill
    for devices in INSTANCES:
        if devices > most or (routed and devices > max(routed)):
            continue
        for tp in INSTANCES:
            if tp > devices or heads % tp:
                continue
            for pool in _variants(served, devices, tp, prefill=prefill):
                if capacity(clock.machine, clock.constants, served.shape, pool, served.precision, drafting).fits:
                    yield pool


def _variants(served: Served, devices: int, tp: int, *, prefill: bool) -> Iterator[Pool]:
    for chunk in CHUNKS if prefill else CHUNKS[-1:]:
        yield Pool(devices=devices, tp=tp, chunk=chunk, memory_share=served.memory_share)
    if 1 < tp == devices and any(group.experts for group in served.shape.layers):
        yield Pool(devices=devices, tp=tp, exchange="replicated", memory_share=served.memory_share)


def decoding(served: Served, pool: Pool) -> tuple[Decode, float]:
    """A decode pool at its best guess, and the largest batch of a group that its memory holds."""
    clock = served.clock
    contexts = served.traffic.decoding()
    room = capacity(clock.machine, clock.constants, served.shape, pool, served.precision, served.speculation.steps > 0)
    most = room.tokens / sum(share * keys for share, keys in contexts)
    decode = Decode(clock, served.shape, pool, served.precision, served.speculation, contexts, served.spread)
    return decode, most


def decode_point(served: Served, pool: Pool, bound: float) -> Point | None:
    """The largest batch of a layout whose tokens take no longer than the bound; 0 takes what memory holds."""
    decode, most = decoding(served, pool)
    if most < 1:
        return None
    batch = decode.largest(bound, most) if bound else most
    if not batch:
        return None
    return Point(pool, batch, decode.tpot(batch), decode.rate(batch))


def best_decode(served: Served, most: int, bound: float) -> Point | None:
    """The layout with the most tokens/s a device within the bound."""
    points = (decode_point(served, pool, bound) for pool in pools(served, most, prefill=False))
    return max((point for point in points if point), key=lambda point: point.rate, default=None)


def prefill_rate(served: Served, pool: Pool, bound: float) -> tuple[float, float]:
    """Computed tokens/s of a device within a bound on the time to the first token, and the share of it in use."""
    clock, traffic = served.clock, served.traffic
    prefill = Prefill(clock, served.shape, pool, served.precision, served.spread)
    service = prefill.service(traffic)
    whole = sum(kind.share for kind in traffic.mix)
    alone = sum(kind.share * prefill.prompt(kind.input, kind.input * kind.hit_rate) for kind in traffic.mix) / whole
    least = alone + clock.constants.request_overhead
    most = clock.constants.pool_use if traffic.live else 1.0
    use = usable(bound, least, service, served.spread, pool.groups, most)
    return use * traffic.mean("missed") / service / pool.tp, use


def best_prefill(served: Served, most: int, bound: float) -> tuple[Pool, float] | None:
    """The layout with the most prompt tokens/s a device within the bound, and that rate."""
    rated = ((pool, prefill_rate(served, pool, bound)[0]) for pool in pools(served, most, prefill=True))
    return max((pair for pair in rated if pair[1]), key=lambda pair: pair[1], default=None)


def front(served: Served, most: int, bounds: Sequence[float] = ()) -> list[Point]:
    """Layouts and batches that none is better than in both throughput and latency, the quickest first.

    Args:
        bounds: seconds of a token to look at; by default multiples of the quickest.
    """
    candidates = list(pools(served, most, prefill=False))
    quickest = [decode_point(served, replace(pool), 0.0) for pool in candidates]
    singles = [decoding(served, pool)[0].tpot(1.0) for pool, point in zip(candidates, quickest, strict=True) if point]
    if not singles:
        return []
    bounds = bounds or [min(singles) * step for step in STEPS]
    found = [point for bound in bounds if (point := best_decode(served, most, bound))]
    found += [max((point for point in quickest if point), key=lambda point: point.rate)]
    kept: list[Point] = []
    for point in sorted(found, key=lambda point: (point.tpot, -point.rate)):
        if not kept or point.rate > kept[-1].rate * 1.001:
            kept.append(point)
    return kept
