from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homegrown.config import ScheduleConfig
from homegrown.optim import lr_factor

schedules = st.builds(
    ScheduleConfig,
    kind=st.sampled_from(["wsd", "cosine"]),
    warmup_steps=st.integers(0, 50),
    decay_fraction=st.floats(0, 1),
    final=st.floats(0, 1),
)


def curve(schedule: ScheduleConfig, steps: int) -> list[float]:
    return [lr_factor(schedule, step, steps) for step in range(1, steps + 1)]


def test_wsd_by_hand():
    schedule = ScheduleConfig(kind="wsd", warmup_steps=4, decay_fraction=0.4, final=0.2)
    assert curve(schedule, 10) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_cosine_by_hand():
    schedule = ScheduleConfig(kind="cosine", warmup_steps=2, final=0.0)
    half = 0.5**0.5 / 2
    assert curve(schedule, 6) == pytest.approx([0.5, 1.0, 0.5 + half, 0.5, 0.5 - half, 0.0], abs=1e-15)


@given(schedules, st.integers(2, 300))
def test_factors_lie_in_the_unit_interval_and_start_above_zero(schedule, steps):
    factors = curve(schedule, steps)
    assert all(0.0 <= factor <= 1.0 for factor in factors)
    assert factors[0] > 0.0


@given(schedules, st.integers(2, 300))
def test_boundaries_are_exact(schedule, steps):
    factors = curve(schedule, steps)
    span = round(schedule.decay_fraction * steps) if schedule.kind == "wsd" else 1
    warm, falls = max(schedule.warmup_steps - 1, 0), steps - 1 - span
    if warm <= falls:  # the two lines do not cross
        assert factors[warm] == 1.0
        assert factors[-1] == pytest.approx(schedule.final if span else 1.0, abs=1e-15)
        assert schedule.kind == "cosine" or all(factor == 1.0 for factor in factors[warm : falls + 1])
    for step in range(min(schedule.warmup_steps, falls, steps)):
        assert factors[step] == (step + 1) / schedule.warmup_steps


@given(schedules, st.integers(1, 300))
def test_rises_once_and_falls_once(schedule, steps):
    factors = curve(schedule, steps)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


@pytest.mark.parametrize("step", [0, 11])
def test_a_step_outside_the_run_is_refused(step):
    with pytest.raises(ValueError, match=rf"step {step}: a run of 10 steps has updates 1 to 10"):
        lr_factor(ScheduleConfig(), step, 10)
