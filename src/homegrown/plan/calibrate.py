"""`homegrown plan --from-run`: what a measured run says about the next one on its machine.

The planner lists the kernels of a step (`kernels`, `update`) and times each by a roofline on what the run's own check
of the machine found: FLOP/s of matrix products, bytes/s of memory. Of a measured step a share f goes with the number
of kernels, the rest with their roofline seconds W, so that another step takes

    t' = t ((1 - f) W'/W + f K'/K)

Steps that train the draft head are predicted from such steps, those that do not from those that do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path

from homegrown.config import ConfigError, TrainConfig, read_toml
from homegrown.plan.facts import Shape
from homegrown.plan.kernel import ITEM, Kernel
from homegrown.plan.kernels import stage_kernels
from homegrown.plan.layout import Layout
from homegrown.plan.measured import Kind, Measured, measured
from homegrown.plan.memory import Overheads, memory
from homegrown.plan.quantity import Interval, Quantity
from homegrown.plan.reading import read_constants
from homegrown.plan.shapes import shape_of
from homegrown.plan.update import update_kernels

DTYPES = {"bfloat16": "bf16", "float16": "bf16", "float32": "fp32"}
"""Of a run's record, in the planner's words."""
NO_OVERHEADS = Overheads(reserve=0.0, waste=0.0, group=0.0, peer=0.0, bucket=0.0)
"""A process's own memory is measured, not assumed."""


@dataclass(frozen=True)
class Load:
    """A step as the planner counts it: roofline seconds, kernels that are launched, and FLOPs."""

    seconds: float
    kernels: float
    flops: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a run says about its machine.

    Attributes:
        run: what was measured.
        steps: seconds of a step without and with the draft head, as far as the run has them, and what is in one.
        index: extra time of a step that trains the indexer, over one that does not.
        base: bytes that the process holds beside the model; 0, memory was not recorded.
    """

    run: Measured
    steps: Mapping[bool, tuple[float, Load]]
    index: float
    base: float

    def achieved(self, draft: bool) -> float:
        """FLOP/s of a step."""
        seconds, counted = self.steps[draft]
        return counted.flops / seconds

    def overhead(self, draft: bool) -> float:
        """Seconds of a step that go with the number of its kernels."""
        return constants()["launching"].value * self.steps[draft][0]

    def seconds(self, counted: Load, draft: bool) -> Interval:
        """Of a step with other work."""
        known = draft if draft in self.steps else not draft
        seconds, own = self.steps[known]
        work, kernels = counted.seconds / own.seconds, counted.kernels / own.kernels
        launching, same, doubling = (constants()[name] for name in ("launching", "same", "doubling"))

        def at(share: float) -> float:
            return seconds * ((1 - share) * work + share * kernels)

        value, doublings = at(launching.value), abs(math.log2(work))
        # Errors of different origin add as the root of the sum of squares; none is smaller the other way round.
        ends = [at(launching.low) / value, at(launching.high) / value]
        below = math.hypot(math.log(min(*ends, 1.0)), math.log(same.low), doublings * math.log(doubling.low))
        above = math.hypot(math.log(max(*ends, 1.0)), math.log(same.high), doublings * math.log(doubling.high))
        return Interval(value, value * math.exp(-below), value * math.exp(above))


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The next run, as the last one predicts it.

    Attributes:
        config: of the run that is predicted.
        steps: seconds of its steps by kind, and how large a share of the steps each kind is.
        figures: `step_s` on average, `tokens_per_s`, `total_s` with what lies between steps, `memory`, and `joules`
            where the measured run metered or estimated its power.
    """

    calibration: Calibration
    config: TrainConfig
    steps: Mapping[Kind, tuple[float, Interval]]
    figures: Mapping[str, Interval]


@cache
def constants() -> dict[str, Quantity]:
    """`launching`, `same` and `doubling` of data/calibration.toml."""
    with resources.as_file(resources.files("homegrown.plan") / "data" / "calibration.toml") as path:
        return {name: read_constants({name: entry}, path.name)[name] for name, entry in read_toml(path).items()}


def calibrate(path: Path) -> Calibration:
    """Calibrate on a run directory.

    Raises:
        ConfigError: something that it takes is missing from the run.
        ReportError: it is no run directory.
    """
    run = measured(path)
    steps = {}
    for draft in (False, True):
        # A run whose every step trains the indexer is calibrated with that included.
        spread = run.kinds.get(Kind(draft, index=False)) or run.kinds.get(Kind(draft, index=True))
        if spread is not None:
            steps[draft] = (spread.median, load(run.config, draft, run))
    held = _held(run.config) if run.memory else 0.0
    return Calibration(run=run, steps=steps, index=_index_share(run), base=max(run.memory - held, 0.0))


def forecast(calibration: Calibration, config: TrainConfig) -> Forecast:
    """What a run with this config comes to on the calibrated machine.

    Raises:
        ConfigError: it is to be spread over several processes.
    """
    sizes = {name: getattr(config.parallel, name) for name in ("dp", "tp", "cp", "pp", "ep")}
    if wrong := next((name for name, size in sizes.items() if size > 1), ""):
        raise ConfigError(
            f"parallel.{wrong} = {sizes[wrong]}: a run of one process says nothing about traffic; leave it out"
        )
    run = calibration.run
    steps = {}
    for kind, share in kinds_of(config).items():
        found = calibration.seconds(load(config, kind.draft, run), kind.draft)
        steps[kind] = share, _scaled(found, 1 + calibration.index * kind.index)
    step = _total(steps)
    tokens = config.data.global_batch * config.data.seq_len
    figures = {
        "step_s": step,
        "tokens_per_s": Interval(tokens / step.value, tokens / step.high, tokens / step.low),
        "total_s": _scaled(step, config.steps * (1 + run.around)),
    }
    if run.memory:
        new, old = _held(config), _held(run.config)
        # What the process holds beside the model is known; the model's own bytes are counted, not measured.
        doubt = 0.25 * abs(new - old) + 0.05 * run.memory
        held = calibration.base + new
        figures["memory"] = Interval(held, max(held - doubt, new), held + doubt)
    if run.watts:
        figures["joules"] = _scaled(step, config.steps * run.watts)
    return Forecast(calibration=calibration, config=config, steps=steps, figures=figures)


def changed(
    config: TrainConfig, *, sequence: int = 0, batch: int = 0, micro_batch: int = 0, steps: int = 0
) -> TrainConfig:
    """A run's config with another sequence length, batch or number of steps; 0 leaves what is there."""
    data = replace(
        config.data,
        seq_len=sequence or config.data.seq_len,
        global_batch=batch or config.data.global_batch,
        micro_batch=micro_batch or (min(config.data.micro_batch, batch) if batch else config.data.micro_batch),
    )
    return replace(config, data=data, steps=steps or config.steps)


def load(config: TrainConfig, draft: bool, run: Measured) -> Load:
    """A step of a config as the planner counts it on a measured machine.

    Args:
        draft: the draft head is trained in it.
    """
    shape, layout = _planned(config, draft)
    rounds = layout.micro_batches
    kernels = [(count * rounds, kernel) for count, group in stage_kernels(shape, layout, 0) for kernel in group]
    kernels += [(1, kernel) for kernel in update_kernels(shape, layout, 0)]
    return Load(
        seconds=sum(count * _roofline(kernel, run) for count, kernel in kernels),
        kernels=sum(count for count, _ in kernels),
        flops=sum(count * kernel.flops for count, kernel in kernels),
    )


def _planned(config: TrainConfig, draft: bool) -> tuple[Shape, Layout]:
    shape = shape_of(config.model)
    if not draft:
        shape = replace(shape, draft=None, draft_steps=0)
    return shape, Layout(
        batch=config.data.global_batch,
        micro_batch=config.data.micro_batch,
        sequence=config.data.seq_len,
        recompute=config.recompute,
        precision="fp32" if config.precision == "float32" else "bf16",
        optimizer="muon" if config.optim.hidden == "muon" else "adamw",
        zero=0,
    )


def _roofline(kernel: Kernel, run: Measured) -> float:
    """Seconds of a kernel at the measured peak or bandwidth, whichever is slower."""
    names = {DTYPES.get(name, name): rate for name, rate in run.peak.items()}
    rate = names.get(kernel.dtype) or names.get("fp32")
    if not rate:
        raise ConfigError(f"{run.path}: environment.json has no peak for {kernel.dtype}, but for {', '.join(run.peak)}")
    item = ITEM["fp32"] / ITEM["bf16"] if DTYPES.get(run.dtype) == "fp32" and kernel.dtype == "bf16" else 1.0
    return max(kernel.flops / rate, item * kernel.bytes / run.bandwidth)


def _index_share(run: Measured) -> float:
    """What training the indexer adds to a step, if there are steps with and without it."""
    for draft in (False, True):
        pair = run.kinds.get(Kind(draft, index=True)), run.kinds.get(Kind(draft, index=False))
        if pair[0] is not None and pair[1] is not None:
            return max(pair[0].median / pair[1].median - 1, 0.0)
    return 0.0


def kinds_of(config: TrainConfig) -> dict[Kind, float]:
    """Kinds of a run's steps, and which share of them each is, by the config's own rules."""
    loss, model = config.loss, config.model
    trains = model.mtp.layers > 0 and (loss.mtp > 0 or loss.mtp_final > 0)
    draft = (1 - loss.mtp_start) / loss.mtp_every if trains else 0.0
    index = 1 / loss.indexer_every if model.sparse.topk and loss.indexer_every else 0.0
    shares = {
        Kind(one, other): (draft if one else 1 - draft) * (index if other else 1 - index)
        for one in (False, True)
        for other in (False, True)
    }
    return {kind: share for kind, share in shares.items() if share > 0}


def _held(config: TrainConfig) -> float:
    """Bytes of the model and a micro-batch, without what the process needs beside them."""
    _, draft = max((share > 0 and kind.draft, kind.draft) for kind, share in kinds_of(config).items())
    shape, layout = _planned(config, draft)
    return memory(shape, layout, NO_OVERHEADS).total


def _total(steps: Mapping[Kind, tuple[float, Interval]]) -> Interval:
    parts = list(steps.values())
    return Interval(
        sum(share * found.value for share, found in parts),
        sum(share * found.low for share, found in parts),
        sum(share * found.high for share, found in parts),
    )


def _scaled(found: Interval, factor: float) -> Interval:
    return Interval(found.value * factor, found.low * factor, found.high * factor)
