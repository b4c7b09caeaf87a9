"""A step's pipeline task by task: what each device does when.

Devices do their tasks in a fixed order, each as soon as what it needs is there. It takes time in proportion to the
number of tasks, so the search uses `schedule`'s closed forms; pages draw this, and tests compare the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from homegrown.plan.layout import Schedule

Pass = Literal["forward", "backward", "inputs", "weights"]
"""`backward` gives gradients of inputs and of weights; `inputs` and `weights` are its two halves."""


class Task(NamedTuple):
    """One pass of one micro-batch through one pipeline part."""

    kind: Pass
    micro_batch: int
    part: int


class Event(NamedTuple):
    """A task with its time; two that run together as one have the same times."""

    device: int
    task: Task
    start: float
    end: float


Order = list[list[tuple[Task, ...]]]
"""For each device its tasks in order; several in one tuple run together (DualPipe's pairs)."""


def order_of(schedule: Schedule, stages: int, parts: int, micro_batches: int) -> Order:
    """The order of each device's tasks. Parts are numbered along the model: part n is on device n mod `stages`; under
    DualPipe, which runs the model in both directions, micro-batches with odd numbers have part n on device p - 1 - n.
    """
    if schedule == "dual" and stages > 1:
        return [_dual(stages, micro_batches, device) for device in range(stages)]
    if schedule == "zero-bubble":
        return [_zero_bubble(stages, micro_batches, device) for device in range(stages)]
    return [_interleaved(stages, parts, micro_batches, device) for device in range(stages)]


def _interleaved(stages: int, parts: int, count: int, device: int) -> list[tuple[Task, ...]]:
    """1F1B over one or several parts (arXiv 2104.04473 section 2.2): warm up, then one backward after each forward."""

    def task(kind: Pass, number: int) -> tuple[Task, ...]:
        # Groups of p micro-batches go through a part before the next part of the device gets them.
        group, place = divmod(number, stages * parts)
        part = place // stages
        part = part if kind == "forward" else parts - 1 - part
        return (Task(kind, group * stages + place % stages, part * stages + device),)

    total = count * parts
    ahead = stages - 1 - device if parts == 1 else 2 * (stages - 1 - device) + (parts - 1) * stages
    ahead = min(ahead, total)
    found = [task("forward", number) for number in range(ahead)]
    for number in range(total - ahead):
        found += [task("forward", ahead + number), task("backward", number)]
    return found + [task("backward", number) for number in range(total - ahead, total)]


def _zero_bubble(stages: int, count: int, device: int) -> list[tuple[Task, ...]]:
    """ZB-H1 (arXiv 2401.10241 section 2): as 1F1B, but gradients of weights wait, the longer the later the stage."""
    ahead = min(stages - 1 - device, count)
    found: list[tuple[Task, ...]] = [(Task("forward", number, device),) for number in range(ahead)]
    for number in range(count):
        if ahead + number < count:
            found.append((Task("forward", ahead + number, device),))
        found.append((Task("inputs", number, device),))
        if number >= device:
            found.append((Task("weights", number - device, device),))
    left = range(max(count - device, 0), count)
    return found + [(Task("weights", number, device),) for number in left]


def _dual(stages: int, count: int, device: int) -> list[tuple[Task, ...]]:
    """DualPipe (arXiv 2412.19437 section 3.2.1, figure 5): micro-batches enter from both ends; in the middle every
    forward pass runs together with a backward pass of the other direction."""
    half = stages // 2
    mirrored = device >= half
    near = stages - 1 - device if mirrored else device
    inner = half - near - 1
    done: dict[tuple[str, int], int] = {}
    waiting: list[Task] = []

    def take(kind: Pass, far: int) -> Task:
        """The next micro-batch that comes from the near end (0) or the far one (1)."""
        direction = far ^ mirrored
        number = done.get((kind[0], far), 0)
        done[kind[0], far] = number + 1
        return Task(kind, 2 * number + direction, stages - 1 - device if direction else device)

    found: list[tuple[Task, ...]] = []

    def forward(far: int) -> None:
        found.append((take("forward", far),))

    def backward(far: int, split: bool = False) -> None:
        kind: Pass = "inputs" if split else "backward"
        number = done.get(("b", far), 0)
        done["b", far] = number + 1
        direction = far ^ mirrored
        task = Task(kind, 2 * number + direction, stages - 1 - device if direction else device)
        found.append((task,))
        if split:
            waiting.append(task._replace(kind="weights"))

    def weights() -> None:
        found.append((waiting.pop(0),))

    def pair(ahead: int, back: int) -> None:
        backward(back)
        (task,) = found.pop()
        found.append((take("forward", ahead), task))

    for _ in range(2 * inner):
        forward(0)
    for _ in range(near + 1):
        forward(0)
        forward(1)
    for _ in range(inner):
        backward(1, split=True)
        weights()
        forward(1)
    for _ in range(count // 2 - stages + near + 1):
        pair(0, 1)
        pair(1, 0)
    for _ in range(inner):
        backward(1)
        pair(1, 0)
    for step in range(near + 1):
        backward(1, split=2 * step >= near + 1)
        backward(0, split=2 * step + 1 >= near + 1)
    for _ in range(inner):
        if waiting:
            weights()
        backward(0, split=True)
    while waiting:
        weights()
    return found


def play(order: Order, stages: int, seconds: Callable[[int, tuple[Task, ...]], float]) -> list[Event]:
    """Give every task its time.

    A forward pass needs that of the part before; a backward pass needs that of the part behind, or on the last part its
    own forward pass; gradients of weights need those of inputs.

    Args:
        order: of each device's tasks, from `order_of`.
        stages: of the pipeline.
        seconds: of tasks that run together on a device.

    Raises:
        ValueError: the order waits for itself.
    """
    last = max(task.part for tasks in order for together in tasks for task in together)
    ends: dict[Task, float] = {}
    free, place = [0.0] * stages, [0] * stages
    events: list[Event] = []
    left = sum(map(len, order))
    while left:
        before = left
        for device, tasks in enumerate(order):
            while place[device] < len(tasks):
                together = tasks[place[device]]
                ready = [_ready(ends, task, last) for task in together]
                if None in ready:
                    break
                start = max(free[device], *(moment for moment in ready if moment is not None))
                end = start + seconds(device, together)
                for task in together:
                    ends[task] = end
                    events.append(Event(device, task, start, end))
                free[device] = end
                place[device] += 1
                left -= 1
        if left == before:
            raise ValueError("the order of tasks waits for itself")
    return events


def _ready(ends: dict[Task, float], task: Task, last: int) -> float | None:
    """When what a task needs is there; `None`, not known yet."""
    kind, micro_batch, part = task
    if kind == "weights":
        return ends.get(Task("inputs", micro_batch, part))
    if kind == "forward":
        return ends.get(Task("forward", micro_batch, part - 1)) if part else 0.0
    own = ends.get(Task("forward", micro_batch, part))
    if part == last or own is None:
        return own
    behind = (ends.get(Task(half, micro_batch, part + 1)) for half in ("backward", "inputs"))
    moment = next((end for end in behind if end is not None), None)
    return None if moment is None else max(own, moment)


def timeline(
    schedule: Schedule,
    parts: int,
    micro_batches: int,
    forward: Sequence[float],
    backward: Sequence[float],
    weights: Sequence[float],
) -> list[Event]:
    """A step's pipeline: tasks with times, for stages whose passes take so many seconds (all parts of a device
    together; `weights` is the part of the backward pass that gives their gradients)."""
    stages = len(forward)

    def seconds(device: int, together: tuple[Task, ...]) -> float:
        whole = {
            "forward": forward[device],
            "backward": backward[device],
            "inputs": backward[device] - weights[device],
            "weights": weights[device],
        }
        return sum(whole[task.kind] for task in together) / parts

    return play(order_of(schedule, stages, parts, micro_batches), stages, seconds)


def idle(events: Sequence[Event], device: int) -> float:
    """Seconds of a step that a device does nothing."""
    busy = {(event.start, event.end) for event in events if event.device == device}
    return max(event.end for event in events) - sum(end - start for start, end in busy)
