"""One rank's job: built as a real run builds it, and moved by one step, on tensors without values, with nobody else."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist

from homegrown.config import TrainConfig
from homegrown.data import Batch
from homegrown.parallel.collectives import TRAFFIC
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import Layout
from homegrown.train.dryrun.components import component_of, tell_apart
from homegrown.train.dryrun.memory import Use
from homegrown.train.dryrun.meter import Meter
from homegrown.train.dryrun.once import ops_once
from homegrown.train.dryrun.wire import Message
from homegrown.train.run import new_stepper
from homegrown.train.step import Stepper


@dataclass(frozen=True)
class Rehearsal:
    """What a rank's step did, or would do.

    Attributes:
        layout, rank: whose.
        resting: bytes between steps, by use: parameters and optimizer.
        kept: bytes that the forward pass of a micro-batch leaves for its backward pass, at most, by component.
        at_peak: bytes by use when most were alive.
        host_peak: bytes on the host, at most, of what the step made there.
        flops: (phase and component, operator) -> floating-point operations.
        messages: what was sent and received, in order.
        seconds: taken to find out.
    """

    layout: Layout
    rank: int
    resting: dict[Use, int]
    kept: dict[str, int]
    at_peak: dict[Use, int]
    host_peak: int
    flops: dict[tuple[Use, str], int]
    messages: list[Message]
    seconds: float

    @property
    def peak(self) -> int:
        """Bytes alive at most."""
        return sum(self.at_peak.values())


def rehearse(config: TrainConfig, layout: Layout, rank: int) -> Rehearsal:
    """Build the job of `rank` under `layout`, with nobody else, and take its busiest step."""
    started = time.perf_counter()
    config = dataclasses.replace(config, precision=precision(config))
    with _alone(rank, layout.world):
        groups = Groups(layout, rank, config.parallel.timeout_s)
        stepper = new_stepper(config, groups, torch.device("meta"), bf16_fast=True)
        done = observe(stepper, groups, _batch(config, layout))
    return dataclasses.replace(done, seconds=time.perf_counter() - started)


def observe(stepper: Stepper, groups: Groups, batch: Batch) -> Rehearsal:
    """Watch a stepper take its busiest step, wherever it computes: a real one can be compared with its rehearsal.

    The stepper is of no further use.
    """
    started = time.perf_counter()
    meter = Meter(groups, stepper.device)
    _claim(meter, stepper)
    resting = dict(meter.memory.alive)
    kept: Counter[str] = Counter()
    _watch(meter, stepper, kept)
    with _listing(), meter, ops_once(meter):
        stepper.step(busiest_step(stepper.config), batch)
    at_peak = {use: size for use, size in meter.memory.at_peak.items() if size}
    seconds = time.perf_counter() - started
    return Rehearsal(
        groups.layout, groups.rank, resting, dict(kept), at_peak, meter.host.peak, dict(meter.flops), meter.messages,
        seconds,
    )  # fmt: skip


def precision(config: TrainConfig) -> Literal["float32", "bfloat16"]:
    """In what a step runs: `auto` is what accelerators multiply faster."""
    return "bfloat16" if config.precision == "auto" else config.precision


def busiest_step(config: TrainConfig) -> int:
    """Number of the last step in which everything trains that does not train in every step."""
    due = math.lcm(config.loss.mtp_every, max(1, config.loss.indexer_every))
    return max(1, config.steps // due * due)


def _batch(config: TrainConfig, layout: Layout) -> Batch:
    """One document a row: the longest attention that rows of this length can have."""
    shape = (config.data.global_batch // layout.dp, config.data.seq_len + 1)
    return Batch(np.zeros(shape, np.int64), np.zeros(shape, np.int64))


@contextmanager
def _alone(rank: int, world: int) -> Iterator[None]:
    """A process group of many in which nobody else is: collectives return at once, and give tensors of the right
    shape."""
    if world == 1:
        yield
        return
    # Imported late: this registers the backend.
    from torch.testing._internal.distributed.fake_pg import FakeStore

    capable = dist.Backend.backend_capability
    before, capable["fake"] = capable["fake"], ["cpu", "meta"]
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()
        capable["fake"] = before


@contextmanager
def _listing() -> Iterator[None]:
    """Collectives say under which name they are called."""
    TRAFFIC.reset()
    TRAFFIC.listing = True
    try:
        yield
    finally:
        TRAFFIC.listing = False
        TRAFFIC.reset()


def _claim(meter: Meter, stepper: Stepper) -> None:
    """Say what the memory of a job at rest is for."""
    for part in stepper.assembly.parts.values():
        for name, tensor in (*part.model.named_parameters(), *part.model.named_buffers()):
            meter.memory.claim([tensor], Use("parameters", component_of(name)))
    weights = {parameter.untyped_storage()._cdata for _, parameter in stepper.assembly.named_parameters()}
    for key, tensor in stepper.optimizer.state().items():
        if tensor.device == stepper.device and tensor.untyped_storage()._cdata not in weights:
            meter.memory.claim([tensor], Use("optimizer", component_of(key.partition("@")[0])))


def _watch(meter: Meter, stepper: Stepper, kept: Counter[str]) -> None:
    """Let the meter know what is going on, and note what forward passes keep."""
    for part in stepper.assembly.parts.values():
        tell_apart(part.model, meter)
        for name, parameter in part.model.named_parameters():
            claim = partial(_claim_gradient, meter, component_of(name))
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(claim)
    meter.watch(stepper._leaves, "take", partial(meter.making, "gradients"))
    meter.watch(stepper._leaves, "give", partial(meter.making, "gradients"))
    meter.watch(stepper.assembly.pipeline, "_forward", partial(_keeping, meter, kept))
    meter.watch(stepper.assembly, "collect", partial(meter.stepping, "n-gram tables"))
    optimizer = stepper.optimizer
    for name, component in (("reduce", "gradient exchange"), ("grad_norm", "norm"), ("step", "update")):
        meter.watch(optimizer, name, partial(meter.stepping, component))


def _claim_gradient(meter: Meter, component: str, parameter: torch.Tensor) -> None:
    if parameter.grad is not None:
        meter.memory.claim([parameter.grad], Use("gradients", component))


@contextmanager
def _keeping(meter: Meter, kept: Counter[str]) -> Iterator[None]:
    """Note by how much a forward pass raises what is kept for backward passes."""
    before = meter.memory.of_kind("activations")
    yield
    more: dict[str, int] = defaultdict(int, meter.memory.of_kind("activations"))
    for component in before:
        more[component] -= before[component]
    for component, size in more.items():
        kept[component] = max(kept[component], size)
