"""How long devices wait in a pipeline, and how many micro-batches they hold, in closed form.

Formulas: 1F1B and interleaved, arXiv 2104.04473 sections 2.2.1 and 2.2.2; zero-bubble, arXiv 2401.10241 section 2 (its
ZB-H1, with 1F1B's memory); DualPipe, arXiv 2412.19437 table 2. `timeline` plays the same schedules task by task, and
tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Sequence

from homegrown.config.errors import ConfigError
from homegrown.plan.layout import Layout, Schedule


def bubble(
    schedule: Schedule, parts: int, forward: Sequence[float], backward: Sequence[float], weights: Sequence[float]
) -> float:
    """Seconds that a step takes beyond what the slowest stage works.

    Where all stages are alike, with F, B and W for one of them and p of them: (p - 1) (F + B) under 1F1B, of which
    interleaving v parts leaves 1 / v; (p - 1) (F + B - 2 W) where gradients of weights fill gaps; and
    (p / 2 - 1) (2 B + F - 3 W) under DualPipe. Stages that differ put their sum in the place of p F, and of p B.

    Args:
        schedule: of the pipeline.
        parts: pipeline parts of a device.
        forward, backward: of each stage, seconds for one micro-batch, all parts of a device together.
        weights: of each stage, seconds of its backward pass that are gradients of weights.
    """
    stages = len(forward)
    if stages == 1:
        return 0.0
    both = [f + b for f, b in zip(forward, backward, strict=True)]
    slowest = max(range(stages), key=both.__getitem__)
    others = sum(both) - both[slowest]
    if schedule == "zero-bubble":
        return max(others - 2.0 * (sum(weights) - weights[slowest]), 0.0) / parts
    if schedule == "dual":
        f, b, w = (sum(times) / stages for times in (forward, backward, weights))
        return max((stages / 2 - 1) * (f + 2.0 * b - 3.0 * w), 0.0)
    return others / parts


def in_flight(schedule: Schedule, stages: int, parts: int, micro_batches: int) -> float:
    """Micro-batches whose activations the fullest device holds at once, counted in all its layers.

    p under 1F1B and ZB-H1; p + (p - 1) / v interleaved (arXiv 2205.05198 section 4.2.3); p + 1 under DualPipe, one more
    than 1F1B on twice the weights (arXiv 2412.19437 table 2). Never more than there are.
    """
    if schedule == "interleaved":
        held = stages + (stages - 1) / parts
    else:
        held = stages + (schedule == "dual" and stages > 1)
    return min(float(held), float(micro_batches))


def check_schedule(layout: Layout) -> None:
    """Refuse what a schedule cannot do.

    Raises:
        ConfigError: micro-batches or stages that do not suit the schedule.
    """
    stages, count = layout.pp, layout.micro_batches
    if layout.schedule == "interleaved" and stages > 1 and count % stages:
        raise ConfigError(
            f"layout.schedule = interleaved: needs micro-batches of a device in multiples of pp = {stages}, not {count}"
        )
    if layout.schedule == "dual" and stages > 1:
        if stages % 2 or count % 2 or count < 2 * stages:
            raise ConfigError(
                f"layout.schedule = dual: needs an even pp and an even number of micro-batches of a device, at least "
                f"twice pp, not pp = {stages} and {count}"
            )
        if layout.parts > 1:
            raise ConfigError(f"layout.parts = {layout.parts}: DualPipe has two parts of its own, set 1")
    if layout.schedule == "1f1b" and layout.parts > 1:
        raise ConfigError(f"layout.parts = {layout.parts}: several parts of a device need schedule = interleaved")
