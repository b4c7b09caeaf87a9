"""A deployment that somebody described, in any world: what validation compares with what was published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from homegrown.config.errors import ConfigError
from homegrown.plan.facts import Cluster, Shape
from homegrown.plan.quantity import World
from homegrown.plan.serving.figures import serving_figures
from homegrown.plan.serving.search import Served, decode_points
from homegrown.plan.serving.setup import Setup


def serving_replay(shape: Shape, cluster: Cluster, setup: Setup) -> Callable[[World], dict[str, float]]:
    """The figures of a deployment as a function of the world; see `serving_figures`.

    A layout that is not given is found once, at the best guess; the batch that keeps a bound is found in each world.

    Raises:
        ConfigError: no layout keeps the bound. The function raises it for formats that the chip lacks, weights that do
            not fit, and bounds that no batch keeps.
    """
    settled = settle(shape, cluster, setup) if setup.devices else setup
    return lambda world: serving_figures(shape, cluster, settled, world)


def settle(shape: Shape, cluster: Cluster, setup: Setup) -> Setup:
    """The same setup with the decode layout that gives the most tokens/s a device within its bound.

    Raises:
        ConfigError: none keeps it.
    """
    served = Served(shape, cluster, setup.traffic, setup.precision, setup.speculation)
    found = decode_points(served, setup.devices, setup.tpot)
    if not found:
        raise ConfigError(
            f"setup.tpot = {setup.tpot:g}: no layout of at most {setup.devices} devices of {cluster.title} keeps it"
        )
    best = max(found.values(), key=lambda point: point.rate)
    return replace(setup, devices=0, decode=best.pool)
