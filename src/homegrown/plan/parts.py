"""Which layers stand in which pipeline part."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from homegrown.config import ConfigError
from homegrown.plan.facts import Shape
from homegrown.plan.layout import Layout
from homegrown.plan.work import draft_work, layer_work


@dataclass(frozen=True)
class Part:
    """A pipeline part.

    Attributes:
        layers: for each kind of layer of the shape, how many of them are here.
        first, last: the embedding stands before its layers; the head and the draft head behind them.
    """

    layers: tuple[int, ...]
    first: bool
    last: bool


def parts_of(shape: Shape, layout: Layout, stage: int) -> tuple[Part, ...]:
    """Parts through which a micro-batch goes on a stage, in order. Part n lives on stage n mod pp.

    Raises:
        ConfigError: `layout.layers` does not fit the model, or there are more parts than layers can fill.
    """
    return all_parts(shape, layout.pp, layout.parts, layout.layers, layout.sequence)[stage :: layout.pp]


@lru_cache(maxsize=8192)
def all_parts(shape: Shape, pp: int, parts: int, layers: tuple[int, ...], sequence: int) -> tuple[Part, ...]:
    """All parts of a model, in the order in which a token goes through them.

    Raises:
        ConfigError: see `parts_of`.
    """
    count = pp * parts
    sizes = layers or balanced(shape, count, sequence)
    if len(sizes) != count or sum(sizes) != shape.depth or min(sizes) < 0:
        raise ConfigError(
            f"layout.layers = {list(sizes)}: must name the layers of {count} parts (pp * parts), {shape.depth} in all"
        )
    kinds = [kind for kind, group in enumerate(shape.layers) for _ in range(group.count)]
    ends = list(accumulate(sizes))
    return tuple(
        Part(
            tuple(kinds[end - size : end].count(kind) for kind in range(len(shape.layers))),
            first=number == 0,
            last=number == count - 1,
        )
        for number, (size, end) in enumerate(zip(sizes, ends, strict=True))
    )


def balanced(shape: Shape, count: int, sequence: int) -> tuple[int, ...]:
    """Layers of each of so many parts such that the part with most work has as little as possible; beyond that, evenly,
    with the short parts in front, where activations of most micro-batches wait.

    Raises:
        ConfigError: there are more parts than layers.
    """
    if count > shape.depth + 1:
        raise ConfigError(f"layout.pp * layout.parts = {count}: the model has only {shape.depth} layers")
    each = [sum(layer_work(shape, group, sequence).values()) for group in shape.layers]
    costs = [cost for cost, group in zip(each, shape.layers, strict=True) for _ in range(group.count)]
    tail = 2.0 * shape.hidden * shape.vocab + sum(draft_work(shape, sequence).values())
    limit = _least_limit(costs, tail, count)
    sizes: list[int] = []
    left = len(costs)
    for after in range(count - 1, -1, -1):
        room = _fitting(costs[:left], limit - (tail if not sizes else 0.0))
        size = min(room, math.ceil(left / (after + 1)))
        # What is left must fit into the parts that are left: greedy filling needs the fewest.
        while _needed(costs[: left - size], limit) > after:
            size += 1
        sizes.append(size)
        left -= size
    return tuple(reversed(sizes))


def _least_limit(costs: list[float], tail: float, count: int) -> float:
    """The least work that no part must exceed for all layers to fit, found by bisection."""
    low, high = max([*costs, tail]), sum(costs) + tail
    for _ in range(50):
        middle = (low + high) / 2
        last = _fitting(costs, middle - tail)
        if _needed(costs[: len(costs) - last], middle) <= count - 1:
            high = middle
        else:
            low = middle
    return high * (1 + 1e-9)


def _fitting(costs: list[float], room: float) -> int:
    """How many of the last layers fit into one part."""
    fitting = 0
    for cost in reversed(costs):
        room -= cost
        if room < 0:
            break
        fitting += 1
    return fitting


def _needed(costs: list[float], limit: float) -> int:
    """Parts that layers need when each is filled as far as it goes."""
    needed, room = 0, 0.0
    for cost in reversed(costs):
        if cost > room:
            needed, room = needed + 1, limit
        room -= cost
    return needed
