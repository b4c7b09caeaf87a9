"""Constants of the model of a step's time, which are the same for every machine, model and run."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from homegrown.plan.quantity import EXPECTED, Quantity, World
from homegrown.plan.reading import read_constants


@dataclass(frozen=True, eq=False)
class Constants:
    """All of them in one world; sources and intervals are in `data/model.toml`.

    Attributes:
        tile: rows and columns of an output tile. units: that work on tiles side by side.
        wave: waves of tiles lost at the end of a product.
        depth: bytes of the inner dimension that take as long as a tile's beginning and end.
        sustained: rate of products hour after hour over that of the best one in a benchmark.
        wide: rate of float32 products over that of bfloat16 ones.
        attention_forward, attention_backward: rate of fused attention over that of products, at its best.
        attention_width: width of a head whose products take as long as the softmax.
        attention_keys: keys that take as long as beginning and end of a block of queries.
        memory, lookup: shares of the memory's bandwidth that kernels reach which move numbers in order, or rows.
        launch: seconds of a kernel besides its work.
        traffic: share of a device that hidden traffic takes.
        skew: standard deviation of experts' popularity in a micro-batch over its mean.
        spread: standard deviation of devices' speed over its mean.
        between: seconds of a step in which nothing is computed.
        error: factor on computing time: what the model itself may be off by.
    """

    tile: float
    units: float
    wave: float
    depth: float
    sustained: float
    wide: float
    attention_forward: float
    attention_backward: float
    attention_width: float
    attention_keys: float
    memory: float
    lookup: float
    launch: float
    traffic: float
    skew: float
    spread: float
    between: float
    error: float

    @classmethod
    def at(cls, world: World = EXPECTED) -> Constants:
        """The constants in one world."""
        return cls(**{field: world.of(f"model.{field}", figure) for field, figure in figures().items()})


NAMES = {
    "tile": ("products", "tile"),
    "units": ("products", "units"),
    "wave": ("products", "wave"),
    "depth": ("products", "depth"),
    "sustained": ("products", "sustained"),
    "wide": ("products", "wide"),
    "attention_forward": ("attention", "forward"),
    "attention_backward": ("attention", "backward"),
    "attention_width": ("attention", "width"),
    "attention_keys": ("attention", "keys"),
    "memory": ("memory", "share"),
    "lookup": ("memory", "lookup"),
    "launch": ("memory", "launch"),
    "traffic": ("traffic", "share"),
    "skew": ("experts", "skew"),
    "spread": ("run", "spread"),
    "between": ("run", "between"),
    "error": ("run", "error"),
}
"""Where a field stands in the data file: table and key."""


@lru_cache(maxsize=1)
def figures() -> Mapping[str, Quantity]:
    """The constants with their intervals and sources, by field.

    Raises:
        ConfigError: the data file is not what it should be.
    """
    path = files("homegrown.plan") / "data" / "model.toml"
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    read = {table: read_constants(entries, f"model.toml: {table}") for table, entries in tables.items()}
    return {field: read[table][key] for field, (table, key) in NAMES.items()}
