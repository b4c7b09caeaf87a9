"""Closed forms of what a pipeline waits, against the schedules played task by task."""

from __future__ import annotations

import pytest

from homegrown.config.errors import ConfigError
from homegrown.plan.activations import in_flight
from homegrown.plan.layout import Layout, Schedule
from homegrown.plan.schedule import bubble, check_schedule
from homegrown.plan.timeline import Event, idle, timeline


def played(schedule: Schedule, parts: int, count: int, times: list[tuple[float, float, float]]) -> list[Event]:
    return timeline(schedule, parts, count, *zip(*times, strict=True))


def waited(schedule: Schedule, parts: int, count: int, times: list[tuple[float, float, float]]) -> float:
    """Seconds of the played schedule beyond what the slowest stage works."""
    end = max(event.end for event in played(schedule, parts, count, times))
    return end - count * max(f + b for f, b, _ in times)


CASES: list[tuple[Schedule, int, int, int]] = [
    ("1f1b", 2, 1, 2), ("1f1b", 4, 1, 4), ("1f1b", 5, 1, 13), ("1f1b", 8, 1, 32),
    ("interleaved", 2, 2, 4), ("interleaved", 4, 2, 8), ("interleaved", 4, 3, 12), ("interleaved", 8, 4, 16),
    ("zero-bubble", 2, 1, 4), ("zero-bubble", 4, 1, 12), ("zero-bubble", 7, 1, 20),
    ("dual", 2, 1, 4), ("dual", 4, 1, 8), ("dual", 8, 1, 20), ("dual", 16, 1, 40),
]  # fmt: skip


@pytest.mark.parametrize(("schedule", "stages", "parts", "count"), CASES)
@pytest.mark.parametrize(("f", "b", "w"), [(1.0, 2.0, 1.0), (1.0, 2.4, 0.9), (3.0, 6.5, 2.5)])
def test_closed_form_is_what_the_schedule_does(
    schedule: Schedule, stages: int, parts: int, count: int, f: float, b: float, w: float
) -> None:
    times = [(f, b, w)] * stages
    expected = bubble(schedule, parts, count, *zip(*times, strict=True))
    assert waited(schedule, parts, count, times) == pytest.approx(expected, abs=1e-9)


def test_published_formulas() -> None:
    """arXiv 2412.19437 table 2, with F = 1, B = 2, W = 1 and 8 stages."""
    times = [[1.0] * 8, [2.0] * 8, [1.0] * 8]
    assert bubble("1f1b", 1, 16, *times) == 7 * 3
    assert bubble("zero-bubble", 1, 16, *times) == 7 * (1 + 2 - 2)
    assert bubble("dual", 1, 16, *times) == 3 * (1 + 2 + 2 - 3)
    assert bubble("interleaved", 3, 16, *times) == 7


def test_gradients_of_weights_wait_for_those_of_inputs() -> None:
    times = [(1.0, 2.2, 1.15)] * 6
    assert waited("zero-bubble", 1, 18, times) == pytest.approx(bubble("zero-bubble", 1, 18, *zip(*times, strict=True)))


@pytest.mark.parametrize("slow", [0, 2, 5])
def test_one_slow_stage(slow: int) -> None:
    """Stages that differ: exact for 1F1B, where the last stage's head or the first one's embedding makes them so."""
    times = [(1.0, 2.0, 1.0)] * 6
    times[slow] = (1.6, 3.3, 1.5)
    expected = bubble("1f1b", 1, 24, *zip(*times, strict=True))
    assert waited("1f1b", 1, 24, times) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("slow", [0, 3])
def test_one_slow_stage_interleaved(slow: int) -> None:
    """Interleaved the closed form is near: within 4 % of the step."""
    times = [(1.0, 2.0, 1.0)] * 4
    times[slow] = (1.2, 2.4, 1.2)
    expected = bubble("interleaved", 3, 24, *zip(*times, strict=True))
    whole = 24 * 3.6
    assert abs(waited("interleaved", 3, 24, times) - expected) < 0.04 * whole


def held_at_most(events: list[Event], device: int, stages: int, parts: int) -> float:
    """Micro-batches between their forward and backward pass on a device, at most, as parts of the whole device."""
    changes = []
    for event in events:
        if event.device == device and event.task.kind == "forward":
            changes.append((event.start, 1))
        elif event.device == device and event.task.kind in ("backward", "inputs"):
            changes.append((event.end, -1))
    held = most = 0
    for _, change in sorted(changes, key=lambda one: (one[0], one[1])):
        held += change
        most = max(most, held)
    return most / parts


@pytest.mark.parametrize(("schedule", "stages", "parts", "count"), [
    ("1f1b", 4, 1, 12), ("interleaved", 4, 2, 12), ("interleaved", 4, 3, 12), ("zero-bubble", 4, 1, 12),
])  # fmt: skip
def test_memory_model_holds_as_many_as_the_schedule(schedule: Schedule, stages: int, parts: int, count: int) -> None:
    layout = Layout(pp=stages, parts=parts, batch=count, sequence=8, schedule=schedule)
    events = played(schedule, parts, count, [(1.0, 2.0, 1.0)] * stages)
    assert held_at_most(events, 0, stages, parts) == in_flight(layout, 0)


def test_every_task_runs_once() -> None:
    for schedule, stages, parts, count in CASES:
        events = played(schedule, parts, count, [(1.0, 2.0, 1.0)] * stages)
        tasks = [event.task for event in events]
        assert len(set(tasks)) == len(tasks)
        forward = sum(task.kind == "forward" for task in tasks)
        assert forward == count * stages * parts
        assert sum(task.kind in ("backward", "inputs") for task in tasks) == forward
        assert sum(task.kind == "weights" for task in tasks) == sum(task.kind == "inputs" for task in tasks)


def test_idle_time_of_devices() -> None:
    events = played("1f1b", 1, 8, [(1.0, 2.0, 1.0)] * 4)
    assert [idle(events, device) for device in range(4)] == [pytest.approx(9.0)] * 4


@pytest.mark.parametrize(("fields", "word"), [
    ({"pp": 4, "parts": 2, "batch": 6, "schedule": "interleaved"}, "multiples of pp = 4"),
    ({"pp": 3, "batch": 12, "schedule": "dual"}, "even pp"),
    ({"pp": 4, "batch": 6, "schedule": "dual"}, "twice pp"),
    ({"pp": 4, "parts": 2, "batch": 8, "schedule": "dual"}, "two parts of its own"),
    ({"pp": 4, "parts": 2, "batch": 8, "schedule": "1f1b"}, "schedule = interleaved"),
])  # fmt: skip
def test_impossible_schedules(fields: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        check_schedule(Layout(sequence=8, **fields))  # type: ignore[arg-type]
