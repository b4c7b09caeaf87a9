"""What a published or measured run is: what was put in and what came out, strictly apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from homegrown.plan.facts import Shape
from homegrown.plan.layout import Layout
from homegrown.plan.quantity import Mark, Quantity
from homegrown.plan.serving import Setup

Kind = Literal["training", "memory", "scaling", "work", "serving", "reliability", "energy", "cost", "ratio"]
"""What kind of run it is, which says what its inputs are."""
Bound = Literal["", "at least", "at most"]
Parts = Literal["device", "system", "site"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A figure that somebody published or measured. No replay is ever shown one.

    Attributes:
        figure: which of `FIGURES`; `point`: of which point of a scaling series.
        value: in SI units; the middle, where a range was published, whose ends `low` and `high` are.
        bound: the figure is only known to be at least, or at most, so large.
        tolerance: the error up to which the planner is taken to be right, relative or in points; None, none declared.
        uncounted: why it is shown but left out of summaries ("same prediction as the step"); empty, it counts.
        reason: why the planner misses it, where that is known.
    """

    figure: str
    value: float
    low: float
    high: float
    point: str = ""
    bound: Bound = ""
    tolerance: float | None = None
    uncounted: str = ""
    reason: str = ""

    @property
    def key(self) -> str:
        """The name under which a replay predicts it."""
        return f"{self.figure}@{self.point}" if self.point else self.figure


@dataclass(frozen=True, kw_only=True)
class Work:
    """A model, and how a publication counts its work.

    Attributes:
        model: name of a preset or of a model of the catalogue, or the shape itself.
        draft_head: it is trained with its draft head, if it has one.
        attention: counted causally (half the square) or in full.
        counts_draft, counts_router: whether FLOPs count these.
        peak: dtype whose peak utilisation is a share of.
    """

    model: str | Shape
    sequence: int
    draft_head: bool = True
    attention: Literal["causal", "full"] = "causal"
    counts_draft: bool = False
    counts_router: bool = False
    peak: str = "bf16"


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training job.

    Attributes:
        cases: what may have been run. Where an input is not published, each possibility is a case of its own, equally
            likely; the middle one is the best guess. Of the layouts within a case the fastest that fits is taken.
        tokens: of the whole run; 0, not asked for.
        own_goodput: hours and days include the failures and restarts that the planner expects.
    """

    work: Work
    cluster: str
    cases: tuple[tuple[Layout, ...], ...]
    tokens: float = 0.0
    own_goodput: bool = False


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """The same job on several numbers of devices; efficiency is throughput a device over that of the first point."""

    points: tuple[tuple[str, Training], ...]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A serving deployment, described as for `homegrown plan serve`."""

    model: str | Shape
    cluster: str
    setup: Setup


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """A job of so many nodes that is interrupted.

    Attributes:
        rate: failures per node and day; restart: seconds from one to the next step. None, the cluster's.
        state: bytes a device of what a checkpoint holds; None, effective time is not asked for.
        seconds: in which interruptions are counted.
        interval: seconds between checkpoints; 0, the best one.
    """

    cluster: str
    nodes: int
    rate: Quantity | None = None
    seconds: float = 0.0
    restart: Quantity | None = None
    state: Quantity | None = None
    interval: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Devices under load.

    Attributes:
        seconds: for how long; 0, only their power is asked for, or they run the job `training`.
        parts: what is metered: the `device` alone, with its share of the `system`, or of the whole `site`.
        pue: of the site where it is published; it then also applies to `device`, as some publications count.
    """

    cluster: str
    devices: int
    seconds: float = 0.0
    training: Training | None = None
    parts: Parts = "site"
    pue: Quantity | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Device-hours that were paid for: devices times seconds, and dollars an hour, where published."""

    cluster: str
    device_seconds: float
    rental: Quantity | None = None


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A figure of one run over that of another."""

    over: str
    under: str
    figure: str


Inputs = Training | Scaling | Work | Serving | Reliability | Energy | Cost | Ratio


@dataclass(frozen=True, kw_only=True)
class Run:
    """A published or measured run.

    Attributes:
        id: unique; group: the publication's table that it belongs to.
        source, date, mark: where it was read, of when it is, how good a source that is.
        inputs: all that a replay may know; published: what it ought to say.
    """

    id: str
    title: str
    kind: Kind
    group: str
    source: str
    date: str
    mark: Mark
    inputs: Inputs
    published: tuple[Published, ...]
    notes: tuple[str, ...] = ()
