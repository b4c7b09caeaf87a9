"""How long devices wait in a pipeline, in closed form.

Formulas: 1F1B and interleaved, arXiv 2104.04473 sections 2.2.1 and 2.2.2; zero-bubble, arXiv 2401.10241 section 2 (its
ZB-H1, with 1F1B's memory); DualPipe, arXiv 2412.19437 table 2. `timeline` plays the same schedules task by task, and
tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from homegrown.config.errors import ConfigError
from homegrown.plan.layout import Layout, Schedule


def bubble(
    schedule: Schedule,
    parts: int,
    count: int,
    forward: Sequence[float],
    backward: Sequence[float],
    weights: Sequence[float],
) -> float:
    """Seconds that a step takes beyond what the slowest stage works.

    Where all stages are alike, with F, B and W for one of them and p of them: (p - 1) (F + B) under 1F1B, of which
    interleaving v parts leaves 1 / v; (p - 1) (F + B - 2 W) where gradients of weights fill gaps, though these wait for
    those of inputs even where W > F; and (p / 2 - 1) (F + 2 B - 3 W) under DualPipe, where F and B run together in
    F + B. Stages that differ put their sum in the place of p F, and of p B; for 1F1B see `_waiting`.

    Args:
        schedule: of the pipeline.
        parts: pipeline parts of a device.
        count: micro-batches.
        forward, backward: of each stage, seconds for one micro-batch, all parts of a device together.
        weights: of each stage, seconds of its backward pass that are gradients of weights.
    """
    stages = len(forward)
    if stages == 1:
        return 0.0
    both = [f + b for f, b in zip(forward, backward, strict=True)]
    slowest = max(both)
    if schedule == "zero-bubble":
        filled = [b - w + max(f - w, 0.0) for f, b, w in zip(forward, backward, weights, strict=True)]
        return sum(filled) - filled[both.index(slowest)]
    if schedule == "dual":
        f, b, w = (sum(times) / stages for times in (forward, backward, weights))
        return max((stages / 2 - 1) * (f + 2.0 * b - 3.0 * w), 0.0)
    if parts > 1:
        return (sum(both) - slowest) / parts
    return max(_waiting(count, forward, backward, both)) - count * slowest


def _waiting(count: int, forward: Sequence[float], backward: Sequence[float], both: Sequence[float]) -> Iterator[float]:
    """For each stage when a step of 1F1B would end if only that one held it up.

    Before and after its own work, micro-batches go through the stages in front. Its first gradient comes when the first
    micro-batch has gone through those behind and back, while it works on the micro-batches that it may be ahead; its
    last gradients come no quicker than the slowest stage behind sends them.
    """
    before, behind, slowest = 0.0, sum(both), [0.0]
    for time in reversed(both[1:]):
        slowest.append(max(slowest[-1], time))
    for stage, (f, b, time) in enumerate(zip(forward, backward, both, strict=True)):
        behind -= time
        ahead = min(len(both) - 1 - stage, count - 1)
        first = max(behind - ahead * f, 0.0)
        yield count * time + before + first + ahead * max(slowest[len(both) - 1 - stage] - b, 0.0)
        before += time


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
    if layout.schedule in ("1f1b", "zero-bubble") and layout.parts > 1:
        raise ConfigError(f"layout.parts = {layout.parts}: several parts of a device need schedule = interleaved")
