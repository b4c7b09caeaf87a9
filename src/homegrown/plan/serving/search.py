"""Layouts of pools: those worth looking at, the best ones for a bound, and the front of throughput against latency."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from homegrown.plan.facts import Cluster, Shape
from homegrown.plan.quantity import EXPECTED, TENTH
from homegrown.plan.serving.capacity import capacity
from homegrown.plan.serving.clock import Clock
from homegrown.plan.serving.constants import Constants
from homegrown.plan.serving.decode import Decode
from homegrown.plan.serving.prefill import Prefill, usable
from homegrown.plan.serving.setup import Pool, Precision, Speculation, Traffic

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Devices of an instance, and of a group, that are looked at."""
CHUNKS = (4096, 8192, 16384)
"""Tokens of a prefill step that are looked at."""
BATCHES = 14
"""Batches between one and the largest at which a layout is timed for the front."""


@dataclass(frozen=True)
class Served:
    """What is served where: everything that layouts are compared under.

    Attributes:
        memory_share, zero_aware, overlap: of all pools; see `Pool`.
    """

    shape: Shape
    cluster: Cluster
    traffic: Traffic
    precision: Precision
    speculation: Speculation
    memory_share: float = 0.9
    zero_aware: bool = True
    overlap: bool = True

    @cached_property
    def clock(self) -> Clock:
        """A device at its best guess."""
        return Clock(self.cluster.machine(EXPECTED), Constants.at(EXPECTED))

    @property
    def spread(self) -> float:
        """Deviation over mean of requests' lengths."""
        return self.clock.constants.length_spread if self.traffic.live else 0.0


@dataclass(frozen=True)
class DecodePoint:
    """A layout and a batch of each group, at their best guess: seconds of a token, tokens/s of a device."""

    pool: Pool
    batch: float
    tpot: float
    rate: float


@dataclass(frozen=True)
class PrefillPoint:
    """A layout at its best guess: seconds to the first token, computed tokens/s of a device, share of it in use."""

    pool: Pool
    ttft: float
    rate: float
    use: float


def pools(served: Served, most: int, *, prefill: bool) -> Iterator[Pool]:
    """Layouts that fit the devices' memory and divide what they must, of at most so many devices."""
    heads = min(group.attention.heads for group in served.shape.layers)
    routed = [group.experts.routed for group in served.shape.layers if group.experts]
    clock, drafting = served.clock, served.speculation.steps > 0 and not prefill
    for devices in SIZES:
        # Without experts nothing joins groups, so that each is an instance of its own.
        if devices > most or (routed and devices > max(routed)):
            continue
        for tp in SIZES if routed else (devices,):
            if tp > devices or heads % tp:
                continue
            for pool in _variants(served, devices, tp, experts=bool(routed), prefill=prefill):
                if capacity(clock.machine, clock.constants, served.shape, pool, served.precision, drafting).fits:
                    yield pool


def _variants(served: Served, devices: int, tp: int, *, experts: bool, prefill: bool) -> Iterator[Pool]:
    for chunk in CHUNKS if prefill else CHUNKS[-1:]:
        yield _pool(served, devices, tp, chunk, replicated=False)
        if experts and 1 < tp == devices:
            yield _pool(served, devices, tp, chunk, replicated=True)


def _pool(served: Served, devices: int, tp: int, chunk: int, *, replicated: bool) -> Pool:
    return Pool(
        devices=devices,
        tp=tp,
        chunk=chunk,
        exchange="replicated" if replicated else "dispatch",
        memory_share=served.memory_share,
        zero_aware=served.zero_aware,
        overlap=served.overlap,
    )


def decoding(served: Served, pool: Pool) -> tuple[Decode, float]:
    """A decode pool at its best guess, and the largest batch of a group that its memory holds.

    Live requests have uneven lengths: nine times in ten n of them need no more than n + 1.28 s sqrt(n) mean ones.
    """
    clock, contexts = served.clock, served.traffic.decoding(served.spread)
    room = capacity(clock.machine, clock.constants, served.shape, pool, served.precision, served.speculation.steps > 0)
    full, spare = room.tokens / sum(share * keys for share, keys in contexts), TENTH * served.spread / 2
    most = (math.sqrt(spare**2 + max(full, 0.0)) - spare) ** 2
    return Decode(clock, served.shape, pool, served.precision, served.speculation, contexts, served.spread), most


def decode_points(served: Served, most: int, bound: float) -> dict[int, DecodePoint]:
    """For each size of an instance, the layout with the most tokens/s a device whose tokens take no longer than the
    bound (0: any time)."""
    found: dict[int, DecodePoint] = {}
    for pool in pools(served, most, prefill=False):
        decode, largest = decoding(served, pool)
        if largest < 1:
            continue
        batch = decode.largest(bound, largest) if bound else largest
        if batch:
            point = _timed(decode, batch)
            found[pool.devices] = max(found.get(pool.devices, point), point, key=lambda point: point.rate)
    return found


def prefill_points(served: Served, most: int, bound: float) -> dict[int, PrefillPoint]:
    """For each size of an instance, the layout with the most prompt tokens/s a device within the bound (0: any)."""
    found: dict[int, PrefillPoint] = {}
    clock, traffic = served.clock, served.traffic
    whole = sum(kind.share for kind in traffic.mix)
    for pool in pools(served, most, prefill=True):
        prefill = Prefill(clock, served.shape, pool, served.precision, served.spread)
        alone = sum(kind.share * prefill.prompt(kind.input, kind.input * kind.hit_rate) for kind in traffic.mix) / whole
        least = alone + clock.constants.request_overhead
        if bound and least >= bound:
            continue
        service = prefill.service(traffic)
        full = clock.constants.pool_use if traffic.live else 1.0
        use = usable(bound, least, service, served.spread, pool.groups, full) if traffic.live else full
        point = PrefillPoint(pool, least, use * traffic.mean("missed") / service / pool.tp, use)
        found[pool.devices] = max(found.get(pool.devices, point), point, key=lambda point: point.rate)
    return found


def _timed(decode: Decode, batch: float) -> DecodePoint:
    seconds = decode.tpot(batch)
    return DecodePoint(decode.pool, batch, seconds, batch / decode.pool.tp / seconds)


def front(served: Served, most: int) -> list[DecodePoint]:
    """Layouts and batches that none is better than in both throughput and latency, the quickest first."""
    points = []
    for pool in pools(served, most, prefill=False):
        decode, largest = decoding(served, pool)
        if largest < 1:
            continue
        for step in range(BATCHES):
            batch = largest ** (step / (BATCHES - 1))
            points.append(_timed(decode, batch))
    kept: list[DecodePoint] = []
    for point in sorted(points, key=lambda point: (point.tpot, -point.rate)):
        if not kept or point.rate > kept[-1].rate:
            kept.append(point)
    return kept
