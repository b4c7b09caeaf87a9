"""Timing several contestants fairly on a machine that has other things to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from homegrown import device as devices

Tick = Callable[[str], None]
"""Told the label of what runs next, for a progress display."""


@dataclass
class Stopwatch:
    """Times named stretches of work on one device.

    Attributes:
        device: waited for before and after each stretch.
        seconds: per name, every measurement in the order taken.
        processor_seconds: the processor time this process got meanwhile, all threads together.
    """

    device: torch.device
    seconds: dict[str, list[float]] = field(default_factory=dict)
    processor_seconds: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Time the block and add it under `name`."""
        devices.synchronize(self.device)
        start, processor_start = time.perf_counter(), time.process_time()
        yield
        devices.synchronize(self.device)
        self.seconds.setdefault(name, []).append(time.perf_counter() - start)
        self.processor_seconds.setdefault(name, []).append(time.process_time() - processor_start)


def interleave(
    work: dict[str, Callable[[], None]], warmup: int, repetitions: int, tick: Tick = lambda label: None
) -> Sequence[str]:
    """Run every piece of work in turn, again and again: A B C A B C ..., so that a slow minute hits all of them alike.

    Args:
        work: by label; each keeps its own measurements.
        warmup: rounds before the first measured one. What they measure is dropped by the caller.
        repetitions: measured rounds.
        tick: called with each label just before its turn.

    Returns:
        The labels in the order they ran, warm-up included.
    """
    order = []
    for _ in range(warmup + repetitions):
        for label, turn in work.items():
            tick(label)
            turn()
            order.append(label)
    return order
