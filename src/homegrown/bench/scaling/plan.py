"""What is measured: one run's step, in one process and shared by several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from homegrown import device as devices
from homegrown.config import ConfigError, ParallelConfig, TrainConfig, build
from homegrown.parallel.layout import settle

LAYOUTS = ("dp", "ep", "cp", "tp", "pp")
"""Dimensions along which processes can share a step, one at a time."""


@dataclass(frozen=True, kw_only=True)
class ScalingPlan:
    """What to measure.

    Attributes:
        config: the run whose step is taken. Its precision, threads, layout, micro-batch and data are set here.
        data: a dataset directory; `None` makes tokens up.
        processes: how many share a step.
        layouts: along which dimensions, of `LAYOUTS`.
        threads: of the case of one process with several; no such case with 1.
        steps: optimizer steps of a case's turn. A multiple of `loss.indexer_every` and `loss.mtp_every` makes turns
            alike.
        repetitions: measured rounds; in each, everything has one turn.
        warmup: rounds before them that do not count.
        sum_bytes: size of the sums that are timed, in float32; 0 times none.
        timeout_s: how long a case may take to be ready, or for a turn.
    """

    config: TrainConfig
    data: Path | None = None
    processes: int = 2
    layouts: Sequence[str] = ("dp", "ep", "cp", "tp")
    threads: int = 1
    steps: int = 10
    repetitions: int = 6
    warmup: int = 1
    sum_bytes: int = 16 << 20
    timeout_s: float = 300.0

    @property
    def taken(self) -> int:
        """Steps that each case takes in all."""
        return self.steps * (self.warmup + self.repetitions)


@dataclass(frozen=True)
class Case:
    """One way to take the step.

    Attributes:
        name: how it is shown.
        processes: how many take it together.
        config: with the threads of each, the layout and determinism of this case.
    """

    name: str
    processes: int
    config: TrainConfig


def cases(plan: ScalingPlan, device: torch.device) -> list[Case]:
    """All of them. The first, one process with one thread, is what the others are compared with.

    Every case cuts the global batch into the same micro-batches, one for each process of data parallelism, so that all
    of them compute the same.

    Raises:
        ConfigError: a layout is not known, or this model or batch cannot be shared that way.
    """
    size, config = plan.processes, _base(plan, device)
    made = [Case("1 process, 1 thread", 1, config)]
    if plan.threads > 1:
        made.append(Case(f"1 process, {plan.threads} threads", 1, replace(config, threads=plan.threads)))
    if config.deterministic:
        made.append(Case("1 process, not deterministic", 1, replace(config, deterministic=False)))
    for name in plan.layouts:
        if name not in LAYOUTS:
            raise ConfigError(f"no layout {name!r}; there are: {', '.join(LAYOUTS)}")
        case = Case(f"{size} processes, {name} {size}", size, replace(config, parallel=_along(name, plan)))
        settle(case.config.parallel, size, config.model, config.data)  # here, where an error has one voice
        made.append(case)
    return made


def _along(name: str, plan: ScalingPlan) -> ParallelConfig:
    return build(ParallelConfig, {name: plan.processes, "timeout_s": plan.timeout_s}, "parallel")


def _base(plan: ScalingPlan, device: torch.device) -> TrainConfig:
    config, data = plan.config, plan.config.data
    if data.global_batch % plan.processes:
        raise ConfigError(
            f"data.global_batch = {data.global_batch}: must be a multiple of the {plan.processes} processes"
        )
    fast = devices.describe(device).features.bf16_fast
    precision = ("bfloat16" if fast else "float32") if config.precision == "auto" else config.precision
    return replace(
        config,
        steps=max(config.steps, plan.taken),
        threads=1,
        precision=precision,
        parallel=ParallelConfig(timeout_s=plan.timeout_s),
        data=replace(
            data, path=plan.data or Path(), micro_batch=min(data.micro_batch, data.global_batch // plan.processes)
        ),
    )
