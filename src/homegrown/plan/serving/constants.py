"""The serving model's own constants, read from `data/serving.toml`, in one world."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources

from homegrown.plan.quantity import Quantity, World
from homegrown.plan.reading import read_constants


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What all models, chips and published rows share; `data/serving.toml` says what each is and where it is from.

    Attributes:
        memory_share: of the memory's bandwidth that streaming kernels reach.
        product_share, grouped_share: of a chip's ceiling that products of the model's shapes and of its experts reach.
        core_share, sparse_share, dequantised_share: the same of attention: over all keys, over selected ones, and
            over keys that are converted first. score_share: of the indexer's scores.
        kernel_floor: seconds of the least kernel. step_overhead: of a step, outside its kernels. request_overhead: of
            a request, outside its prompt.
        elementwise_passes: times that a sublayer reads or writes the hidden state outside its products.
        popularity: deviation over mean of the tokens that experts get. rebalanced: the share of it left with copies of
            busy ones.
        length_spread: deviation over mean of lengths of live requests. pool_use: share of a pool's throughput that
            live traffic makes use of.
        dispatch_units: share of a device that large transfers between experts take while they overlap.
        traffic_share: of a link that many small messages reach. tier_share: that large collectives reach.
        runtime_reserve: bytes that context, communicators and buffers take. model_error: factor of computing times.
    """

    memory_share: float
    product_share: float
    grouped_share: float
    core_share: float
    sparse_share: float
    dequantised_share: float
    score_share: float
    kernel_floor: float
    step_overhead: float
    request_overhead: float
    elementwise_passes: float
    popularity: float
    rebalanced: float
    length_spread: float
    pool_use: float
    dispatch_units: float
    traffic_share: float
    tier_share: float
    runtime_reserve: float
    model_error: float

    @classmethod
    def at(cls, world: World) -> Constants:
        """The constants as they are in one world."""
        known = quantities()
        return cls(**{field.name: world.of(f"serving.{field.name}", known[field.name]) for field in fields(cls)})


@cache
def quantities() -> Mapping[str, Quantity]:
    """The constants with their intervals, marks and sources."""
    text = resources.files("homegrown.plan").joinpath("data", "serving.toml").read_text("utf-8")
    return read_constants(tomllib.loads(text), "serving.toml")
