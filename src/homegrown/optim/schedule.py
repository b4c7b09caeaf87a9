"""The learning rate over a run, as a factor of each group's rate."""

from __future__ import annotations

import math

from homegrown.config import ScheduleConfig


def lr_factor(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """The factor of update number `step` (from 1) in a run of `steps` updates.

    Warm-up is a straight line that reaches 1 at update `warmup_steps` and starts above zero, so that no update is
    wasted. Then
      `wsd`:    1 until round(decay_fraction * steps) updates are left, then a straight line that arrives at `final`
                with the last update; with decay_fraction = 0 it stays at 1 and `final` is not used;
      `cosine`: half a cosine from 1 at the end of warm-up to `final` at the last update.
    In a run too short for both, the lower of the two lines counts.

    Raises:
        ValueError: `step` is not an update of the run.
    """
    if not 1 <= step <= steps:
        raise ValueError(f"step {step}: a run of {steps} steps has updates 1 to {steps}")
    warmup = step / schedule.warmup_steps if step < schedule.warmup_steps else 1.0
    return min(warmup, _wsd(schedule, step, steps) if schedule.kind == "wsd" else _cosine(schedule, step, steps))


def _wsd(schedule: ScheduleConfig, step: int, steps: int) -> float:
    span = round(schedule.decay_fraction * steps)
    left = steps - step
    if left >= span:
        return 1.0
    return schedule.final + (1.0 - schedule.final) * left / span


def _cosine(schedule: ScheduleConfig, step: int, steps: int) -> float:
    peak = max(schedule.warmup_steps, 1)
    if step <= peak:
        return 1.0
    progress = (step - peak) / (steps - peak)
    return schedule.final + (1.0 - schedule.final) * 0.5 * (1.0 + math.cos(math.pi * progress))
