"""What went into a run, read from its `inputs` table: all that a replay is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from homegrown.config import ConfigError, overlay
from homegrown.plan.facts import Shape
from homegrown.plan.models import read_model
from homegrown.plan.quantity import Quantity
from homegrown.plan.reading import Entry, Origin
from homegrown.plan.serving import read_setup
from homegrown.plan.units import FAILURES, MEMORY, PUE, RENTAL, TIME, TOKENS
from homegrown.plan.validate.layouts import layout_cases
from homegrown.plan.validate.runs import (
    Cost,
    Energy,
    Inputs,
    Kind,
    Parts,
    Ratio,
    Reliability,
    Scaling,
    Serving,
    Training,
    Work,
)

DAY = 86_400.0
"""Seconds."""
PEAKS = ("bf16", "fp8", "fp4", "int8", "fp32")
COUNTED: tuple[Literal["causal", "full"], ...] = ("causal", "full")


class Open(Entry):
    """A table some of whose keys are left to others to read."""

    def rest(self, *without: str) -> dict[str, Any]:
        """All keys but these; they count as asked for."""
        return {key: self.take(key) for key in list(self._table) if key not in without}


def inputs_of(kind: Kind, entry: Open) -> Inputs:
    """The inputs of a run of this kind.

    Raises:
        ConfigError: something is missing, unknown, or cannot be.
    """
    inputs = READERS[kind](entry)
    entry.done()
    return inputs


def training(entry: Open) -> Training:
    """A training job; `Training` says what each key means."""
    work = counted_work(entry)
    return Training(
        work=work,
        cluster=entry.text("cluster"),
        cases=layout_cases(entry, work.sequence),
        tokens=TOKENS(entry.take("tokens"), entry.at("tokens")) if "tokens" in entry else 0.0,
        own_goodput=flag(entry, "own_goodput", False),
    )


def counted_work(entry: Entry) -> Work:
    """A model, and how its work is counted."""
    return Work(
        model=model(entry),
        sequence=entry.whole("sequence"),
        draft_head=flag(entry, "draft_head", True),
        attention=entry.choice("attention", COUNTED, "causal"),
        counts_draft=flag(entry, "counts_draft", False),
        counts_router=flag(entry, "counts_router", False),
        peak=entry.choice("peak", PEAKS, "bf16"),
    )


def scaling(entry: Open) -> Scaling:
    """The same job several times: each table of `points` is laid over the other keys. It is named by its devices."""
    points, shared = entry.take("points"), dict(entry.rest("points"))
    if not isinstance(points, list) or len(points) < 2 or not all(isinstance(point, dict) for point in points):
        raise ConfigError(f"{entry.at('points')} = {points!r}: must be a list of at least two tables")
    jobs = []
    for index, point in enumerate(points):
        one = Open(overlay(shared, point), f"{entry.at('points')}[{index}]", entry.origin)
        job = training(one)
        one.done()
        jobs.append((str(job.cases[0][0].devices), job))
    if len(dict(jobs)) < len(jobs):
        raise ConfigError(f"{entry.at('points')}: two points have as many devices")
    return Scaling(points=tuple(jobs))


def serving(entry: Open) -> Serving:
    """A serving deployment; its other keys are those that `homegrown plan serve` reads."""
    named, cluster = model(entry), entry.text("cluster")
    return Serving(model=named, cluster=cluster, setup=read_setup(entry.rest("model", "cluster"), entry.where))


def reliability(entry: Entry) -> Reliability:
    """A job that is interrupted."""

    def figure(key: str, read: Callable[[object, str], float]) -> Quantity | None:
        return entry.figure(key, read) if key in entry else None

    return Reliability(
        cluster=entry.text("cluster"),
        nodes=entry.whole("nodes"),
        rate=figure("failures", FAILURES),
        seconds=time(entry, "time"),
        restart=figure("restart", TIME),
        state=figure("state", MEMORY),
        interval=time(entry, "interval"),
    )


def energy(entry: Open) -> Energy:
    """Devices under load, or a training job's."""
    job = None
    if "training" in entry:
        inner = Open(entry.take("training"), entry.at("training"), entry.origin)
        job = training(inner)
        inner.done()
        if not job.tokens:
            raise ConfigError(f"{inner.where}: 'tokens' is missing; it says for how long the job runs")
    return Energy(
        cluster=job.cluster if job else entry.text("cluster"),
        devices=job.cases[0][0].devices if job else entry.whole("devices"),
        seconds=time(entry, "time"),
        training=job,
        parts=entry.choice("parts", get_args(Parts), "site"),
        pue=entry.figure("pue", PUE) if "pue" in entry else None,
    )


def cost(entry: Entry) -> Cost:
    """Device-hours that were paid for."""
    return Cost(
        cluster=entry.text("cluster"),
        device_seconds=entry.whole("devices") * TIME(entry.take("time"), entry.at("time")),
        rental=entry.figure("rental", RENTAL) if "rental" in entry else None,
    )


def ratio(entry: Entry) -> Ratio:
    """A figure of one run over the same of another."""
    return Ratio(over=entry.text("over"), under=entry.text("under"), figure=entry.text("figure"))


READERS: Mapping[Kind, Callable[[Open], Inputs]] = {
    "training": training,
    "memory": training,
    "scaling": scaling,
    "work": counted_work,
    "serving": serving,
    "reliability": reliability,
    "energy": energy,
    "cost": cost,
    "ratio": ratio,
}
"""What reads the inputs of each kind of run."""


def model(entry: Entry) -> str | Shape:
    """A model: its name, or its sizes as files of models have them."""
    value = entry.take("model")
    if not isinstance(value, dict):
        return entry.text("model")
    return read_model("model", Entry({"title": "model", "source": "here", **value}, entry.at("model"), Origin())).shape


def flag(entry: Entry, key: str, default: bool) -> bool:
    """True or false."""
    return entry.choice(key, (True, False), default)


def time(entry: Entry, key: str) -> float:
    """Seconds; 0 if they are not given."""
    return TIME(entry.take(key), entry.at(key)) if key in entry else 0.0
