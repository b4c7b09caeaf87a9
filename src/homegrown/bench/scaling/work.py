"""What the measured processes do: steps of training, and sums."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from homegrown import device as devices
from homegrown.bench.interleave import Stopwatch
from homegrown.config import TrainConfig
from homegrown.data import Batch, Batches, TokenDataset
from homegrown.parallel.collectives import all_reduce, barrier
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import Layout, settle
from homegrown.parallel.world import World
from homegrown.train.run import new_stepper, set_determinism

SPECIAL = 4
"""Ids at the start of a vocabulary that made-up text does not contain."""


@dataclass(frozen=True)
class Turn:
    """One process's share of some steps.

    Attributes:
        seconds: all of them together.
        processor_seconds: that this process got meanwhile, all its threads together.
        first_loss: next-token loss of the first, in nats a token, of the global batch.
    """

    seconds: float
    processor_seconds: float
    first_loss: float


class Training:
    """A rank of a run in progress; an order is a number of steps.

    Args:
        world: this process.
        config: with the precision settled. An empty data path makes tokens up.
    """

    def __init__(self, world: World, config: TrainConfig) -> None:
        self._config, self._device = config, world.device
        devices.set_threads(config.threads)
        devices.keep_host_memory()
        set_determinism(config.deterministic)
        layout = settle(config.parallel, world.size, config.model, config.data)
        self._groups = Groups(layout, world.rank, config.parallel.timeout_s)
        bf16_fast = devices.describe(world.device).features.bf16_fast
        self._stepper = new_stepper(config, self._groups, world.device, bf16_fast)
        self._batch = _source(config, layout, world.rank)
        self._step = 0

    def __call__(self, steps: int) -> Turn:
        """Take so many steps, beginning together."""
        watch, losses = Stopwatch(self._device), []
        batches = [self._batch(self._step + ahead) for ahead in range(steps)]
        barrier(self._groups["world"])
        with watch.time("turn"):
            for batch in batches:
                self._step += 1
                result = self._stepper.step(self._step, batch)
                result.grad_norm.item()  # as a run does before its next step, to write it down
                losses.append(result.terms["lm"])
        return Turn(watch.seconds["turn"][0], watch.processor_seconds["turn"][0], float(losses[0]))


def _source(config: TrainConfig, layout: Layout, rank: int) -> Callable[[int], Batch]:
    """This rank's rows of the batch of a step, from 0 on."""
    data = config.data
    each = data.global_batch // layout.dp
    first = layout.place(rank).dp * each
    rows = slice(first, first + each)
    if data.path.name:
        split = TokenDataset.open(data.path).train
        batches = Batches(split, seq_len=data.seq_len, global_batch=data.global_batch, seed=config.seed)
        return lambda step: batches.batch(step, rows)
    return lambda step: _made_up(config, step, rows)


def _made_up(config: TrainConfig, step: int, rows: slice) -> Batch:
    """Rows of a batch of one document each: ids as unevenly distributed as words are, so that n-grams repeat."""
    data, ids = config.data, config.model.vocab_size - SPECIAL
    weights = 1 / np.arange(1, ids + 1)
    random = np.random.default_rng((config.seed, step))
    tokens = SPECIAL + random.choice(ids, size=(data.global_batch, data.seq_len + 1), p=weights / weights.sum())
    tokens = tokens[rows].astype(np.int64)
    return Batch(tokens, np.zeros_like(tokens))


@dataclass(frozen=True)
class SumTimes:
    """Seconds of each of some sums, as one process saw them."""

    tree: list[float]
    backend: list[float]


class Sums:
    """Sums over all processes; an order is how often each way of summing is timed.

    Args:
        world: this process.
        size: bytes of a process's float32 numbers.
        timeout_s: for a sum.
    """

    def __init__(self, world: World, size: int, timeout_s: float) -> None:
        devices.set_threads(1)
        devices.keep_host_memory()
        self._device = world.device
        self._group = Groups(Layout(dp=world.size), world.rank, timeout_s)["world"]
        self._numbers = torch.ones(size // 4, device=world.device)

    def __call__(self, times: int) -> SumTimes:
        """Sum in tree order and by the backend's own operation, by turns. Both leave the numbers as they are."""
        pairs = [(self._time(self._tree), self._time(self._backend)) for _ in range(times)]
        return SumTimes(*(list(column) for column in zip(*pairs, strict=True)))

    def _tree(self) -> None:
        all_reduce(self._numbers, self._group)

    def _backend(self) -> None:
        dist.all_reduce(self._numbers.clone(), group=self._group.handle)

    def _time(self, work: Callable[[], None]) -> float:
        barrier(self._group)
        devices.synchronize(self._device)
        start = time.perf_counter()
        work()
        devices.synchronize(self._device)
        return time.perf_counter() - start
