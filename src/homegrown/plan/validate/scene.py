"""All that replays share: the catalogue, and what is uncertain in each of the worlds they are run in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np

from homegrown.plan.catalogue import Catalogue, plain
from homegrown.plan.constants import Constants
from homegrown.plan.facts import Cluster, Machine, Shape
from homegrown.plan.memory import Overheads
from homegrown.plan.quantity import EXPECTED, Interval, World
from homegrown.plan.shapes import preset_shape, preset_shape_names

WORLDS = 64
"""Worlds that an interval is taken from."""

Replay = Callable[[World, int], Mapping[str, float]]
"""Figures of a run in one world, given the world's number; the first is the best guess."""


class Scene:
    """The worlds that runs are replayed in. What depends on the world alone is worked out once.

    Args:
        catalogue: chips, clusters and models.
        worlds: from which intervals are taken.
    """

    def __init__(self, catalogue: Catalogue | None = None, worlds: int = WORLDS) -> None:
        self.catalogue = catalogue or Catalogue.load()
        self._worlds = (EXPECTED, *(World(index, worlds) for index in range(worlds)))
        self._machines: dict[tuple[str, World], Machine] = {}
        self._constants: dict[World, Constants] = {}
        self._overheads: dict[World, Overheads] = {}

    @cached_property
    def _presets(self) -> Mapping[str, str]:
        return {plain(name): name for name in preset_shape_names()}

    def shape(self, model: str | Shape, *, draft_head: bool = True) -> Shape:
        """A model of the catalogue or a preset, or the shape itself; with its draft head or without."""
        if isinstance(model, str):
            preset = self._presets.get(plain(model))
            model = preset_shape(preset) if preset else self.catalogue.shape(model)
        return model if draft_head or model.draft is None else replace(model, draft=None, draft_steps=0)

    def cluster(self, name: str) -> Cluster:
        """A cluster of the catalogue."""
        return self.catalogue.cluster(name)

    def machine(self, cluster: str, world: World) -> Machine:
        """A cluster in one world."""
        key = (cluster, world)
        if key not in self._machines:
            self._machines[key] = self.cluster(cluster).machine(world)
        return self._machines[key]

    def constants(self, world: World) -> Constants:
        """The planner's constants in one world."""
        if world not in self._constants:
            self._constants[world] = Constants.at(world)
        return self._constants[world]

    def overheads(self, world: World) -> Overheads:
        """The constants of its memory model in one world."""
        if world not in self._overheads:
            self._overheads[world] = Overheads.at(world, self.constants(world).skew)
        return self._overheads[world]

    def intervals(self, replay: Replay) -> dict[str, Interval]:
        """A run's figures: at the best guess, and between the tenths of all worlds."""
        best, *drawn = (replay(world, number) for number, world in enumerate(self._worlds))
        found = {}
        for name, value in best.items():
            low, high = (float(end) for end in np.quantile([figures[name] for figures in drawn], [0.1, 0.9]))
            found[name] = Interval(value, min(low, value), max(high, value))
        return found
