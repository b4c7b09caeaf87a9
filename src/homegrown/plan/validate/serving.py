"""Serving deployments, replayed."""

from __future__ import annotations

from collections.abc import Mapping

from homegrown.plan.quantity import World
from homegrown.plan.serving import serving_replay
from homegrown.plan.validate.runs import Serving
from homegrown.plan.validate.scene import Replay, Scene


def serve(job: Serving, scene: Scene) -> Replay:
    """Figures of a serving deployment."""
    figures = serving_replay(scene.shape(job.model), scene.cluster(job.cluster), job.setup)

    def replay(world: World, number: int) -> Mapping[str, float]:
        return figures(world)

    return replay
