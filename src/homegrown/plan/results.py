"""What a plan says: the types that tables, files and pages are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from homegrown.plan.layout import Layout
from homegrown.plan.quantity import Interval


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations of a token, forward, by component; multiply and add are two."""

    linear: float
    attention: float
    indexer: float
    router: float
    head: float
    draft: float = 0.0

    def total(self, *, draft: bool = True, router: bool = True) -> float:
        """All of them, with or without what some publications leave out."""
        return self.linear + self.attention + self.indexer + self.head + self.router * router + self.draft * draft


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on the fullest device, by component (`weights`, `gradients`, `optimizer`, `activations`, `experts' slack`,
    `n-gram tables`, `communication`, `reserve`...)."""

    parts: Mapping[str, float]
    host: float = 0.0

    @property
    def total(self) -> float:
        """All of it, on the device."""
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one optimizer step, split so that the parts add up to it.

    Attributes:
        compute: by component of the model, on the slowest stage, over all its micro-batches; recomputation is one of
            them.
        exposed: communication that nothing hides, by dimension (`tp`, `cp`, `ep`, `dp`, `pp`, `embp`).
        hidden: communication behind computation, by dimension: not part of the sum.
        bubble: waiting for the pipeline. optimizer: the update. imbalance: waiting for the fullest expert rank.
        straggler: waiting for the slowest device.
        tokens: of the step. flops: model FLOPs of the step (forward and backward, recomputation left out).
        hardware_flops: those of the step with recomputation.
    """

    compute: Mapping[str, float]
    exposed: Mapping[str, float]
    hidden: Mapping[str, float] = field(default_factory=dict)
    bubble: float = 0.0
    optimizer: float = 0.0
    imbalance: float = 0.0
    straggler: float = 0.0
    tokens: int = 0
    flops: float = 0.0
    hardware_flops: float = 0.0

    @property
    def seconds(self) -> float:
        """The whole step."""
        return (
            sum(self.compute.values())
            + sum(self.exposed.values())
            + self.bubble
            + self.optimizer
            + self.imbalance
            + self.straggler
        )


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A layout that fits, with everything at its best guess."""

    layout: Layout
    time: StepTime
    memory: Memory

    @property
    def tokens_per_second(self) -> float:
        """Of all devices together."""
        return self.time.tokens / self.time.seconds


@dataclass(frozen=True, kw_only=True)
class KernelTime:
    """A kernel on a device of the slowest stage, all its runs in a step together.

    Attributes:
        part: component of the model.
        flops, bytes: operations, and bytes to and from the device's memory.
        dtype: of the products; what has none is bound by memory.
    """

    name: str
    part: str
    flops: float
    bytes: float
    seconds: float
    dtype: str = "bf16"


@dataclass(frozen=True, kw_only=True)
class Span:
    """Something that the device of a pipeline stage does in a step, from one second of it to another.

    Attributes:
        kind: `forward`, `backward` (or its halves, `inputs` and `weights`).
    """

    device: int
    kind: str
    start: float
    end: float
    micro_batch: int = 0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a training run with one sequence length.

    Attributes:
        figures: `step_s`, `tokens_per_s`, `tokens_per_s_device`, `tflops_device`, `mfu` (share of `basis`), `memory`,
            `mtbf_h`, `checkpoint_interval_s`, `goodput`, `days`, `device_hours`, `mwh`, `usd`: with intervals.
        basis: what utilisation is a share of, in words: peak, dtype, device, how attention is counted, draft head.
        others: the next best layouts.
        considered, fitting: layouts looked at, and those among them that fit.
        capacity: bytes of a device that may be used.
        kernels: of the best layout's step, for its roofline; `limits`, what bounds them: FLOP/s that large products
            reach by dtype, and bytes/s of `memory`.
        timeline: of the best layout's pipeline.
    """

    name: str
    tokens: float
    best: Candidate
    figures: Mapping[str, Interval]
    basis: str
    others: tuple[Candidate, ...] = ()
    considered: int = 0
    fitting: int = 0
    seconds: float = 0.0
    capacity: float = 0.0
    kernels: tuple[KernelTime, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    timeline: tuple[Span, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The same run on another number of devices.

    Attributes:
        figures: `days`, `mwh`, `usd`: of the whole run.
    """

    devices: int
    figures: Mapping[str, Interval]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training run, stage by stage, and all of it.

    Attributes:
        scales: the same run on fewer and more devices.
    """

    model: str
    cluster: str
    devices: int
    stages: tuple[Stage, ...]
    totals: Mapping[str, Interval]
    assumptions: tuple[str, ...] = ()
    command: str = ""
    scales: tuple[Scale, ...] = ()
