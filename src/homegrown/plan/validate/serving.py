"""Serving deployments, replayed."""

from __future__ import annotations

from homegrown.config import ConfigError
from homegrown.plan.validate.runs import Serving
from homegrown.plan.validate.scene import Replay, Scene


def serve(job: Serving, scene: Scene) -> Replay:
    """Figures of a serving deployment."""
    raise ConfigError("serving is not replayed yet")
