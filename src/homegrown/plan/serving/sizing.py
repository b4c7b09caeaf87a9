"""How many instances of which layouts: the fewest devices for a rate, or the highest rate of so many devices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from homegrown.config.errors import ConfigError
from homegrown.plan.serving.search import DecodePoint, PrefillPoint

Point = TypeVar("Point", PrefillPoint, DecodePoint)


@dataclass(frozen=True)
class Sized:
    """A layout of each pool, instances of each, and the requests/s that they are for."""

    prefill: PrefillPoint
    decode: DecodePoint
    prefill_instances: int
    decode_instances: int
    rate: float


def for_rate(
    rate: float, missed: float, output: float, prefills: Mapping[int, PrefillPoint], decodes: Mapping[int, DecodePoint]
) -> Sized:
    """The fewest devices for so many requests/s; 0 takes what the best decode instance alone carries.

    Args:
        missed, output: tokens of a request that are computed, and that are answered.
        prefills, decodes: the best layout of each size.
    """
    if not rate:
        best = max(decodes.values(), key=lambda point: point.rate)
        rate = best.rate * best.pool.devices / output
    prefill, first = min((_needed(point, rate * missed) for point in prefills.values()), key=_devices)
    decode, second = min((_needed(point, rate * output) for point in decodes.values()), key=_devices)
    return Sized(prefill, decode, first, second, rate)


def for_devices(
    devices: int, missed: float, output: float, prefills: Mapping[int, PrefillPoint], decodes: Mapping[int, DecodePoint]
) -> Sized:
    """The highest rate of so many devices, some of which may be left over.

    Raises:
        ConfigError: there are too few for one instance of each pool.
    """
    best: Sized | None = None
    for prefill in prefills.values():
        for decode in decodes.values():
            one = prefill.pool.devices * prefill.rate / missed, decode.pool.devices * decode.rate / output
            # Balanced where both pools carry the same requests/s; whole instances lie on either side of that.
            ideal = devices * one[0] / (one[0] * decode.pool.devices + one[1] * prefill.pool.devices)
            for second in {math.floor(ideal), math.ceil(ideal)}:
                first = (devices - second * decode.pool.devices) // prefill.pool.devices
                rate = min(first * one[0], second * one[1])
                if first > 0 and second > 0 and (best is None or rate > best.rate):
                    best = Sized(prefill, decode, first, second, rate)
    if best is None:
        raise ConfigError(
            f"--devices {devices}: too few for one prefill instance of {min(prefills)} and one decode instance of "
            f"{min(decodes)}; at least {min(prefills) + min(decodes)} are needed"
        )
    return best


def _needed(point: Point, tokens: float) -> tuple[Point, int]:
    """A layout, and its instances for so many tokens/s; a hair more than a whole number of them is none more."""
    return point, max(1, math.ceil(tokens / (point.rate * point.pool.devices) - 1e-9))


def _devices(needed: tuple[PrefillPoint | DecodePoint, int]) -> int:
    return needed[0].pool.devices * needed[1]
