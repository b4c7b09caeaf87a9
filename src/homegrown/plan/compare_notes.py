"""What is told of a cluster in a comparison: its chip, layouts, weeks, and dated prices and rules."""

from __future__ import annotations

from collections.abc import Iterator

from homegrown.plan.days import Upkeeping, kept_going
from homegrown.plan.facts import Cluster
from homegrown.plan.layout import Layout
from homegrown.plan.plan import saved
from homegrown.plan.quantity import Quantity
from homegrown.plan.results import Plan
from homegrown.plan.simulate import WEEK, simulate

WEEKS, RUNS = 8, 25
"""Of simulated runs, and how many of them."""


def notes_of(cluster: Cluster, plan: Plan | None, how: Upkeeping) -> Iterator[str]:
    """Sentences on a cluster, and on what was planned there if anything was; `how` the run is kept going."""
    chip = cluster.chip
    peak = ", ".join(f"{figure.value / 1e12:,.0f} TFLOP/s {dtype}" for dtype, figure in chip.peak.items())
    yield f"a device is a {chip.unit} of {chip.title}: {peak}; {chip.memory.value / 2**30:.1f} GiB"
    if chip.status == "announced":
        yield "announced, not sold yet"
    for stage in plan.stages if plan else ():
        yield f"{stage.name}: {_layout(stage.best.layout)}"
    if plan:
        yield _weeks(cluster, plan, how)
    yield from (f"{what} {priced(figure, unit)}" for what, figure, unit in _prices(cluster) if figure is not None)
    if chip.rental is None and chip.capital is None:
        yield "no price is known"
    yield from chip.facts


def _weeks(cluster: Cluster, plan: Plan, how: Upkeeping) -> str:
    """How weeks of the longest stage differ by chance alone, every figure at its best guess."""
    stage = max(plan.stages, key=lambda stage: stage.figures["days"].value)
    parts = kept_going(
        cluster, stage.best.time.seconds, devices=plan.devices, used=stage.best.layout.devices,
        state=saved(stage.best.memory), how=how,
    )  # fmt: skip
    low, _, high = simulate(*parts, seconds=WEEKS * WEEK, runs=RUNS).weeks()
    return f"{stage.name}: one week in ten has a goodput below {low:.1%}, one in ten above {high:.1%} (simulated)"


def _prices(cluster: Cluster) -> tuple[tuple[str, Quantity | None, str], ...]:
    return ("rent", cluster.chip.rental, "USD an hour"), (
        "price",
        cluster.chip.capital,
        "USD with its share of the system",
    )


def priced(figure: Quantity, unit: str) -> str:
    """A price with its interval, date, mark and source."""
    digits = 2 if figure.value < 100 else 0
    value, low, high = (f"{number:,.{digits}f}" for number in (figure.value, figure.low, figure.high))
    dated = f"{figure.date}, " if figure.date else ""
    return f"{value} ({low} to {high}) {unit} ({dated}{figure.mark}: {figure.source})"


def _layout(layout: Layout) -> str:
    sizes = {name: getattr(layout, name) for name in ("tp", "cp", "pp", "dp", "ep", "embp")}
    told = " ".join(f"{name}{size}" for name, size in sizes.items() if size > 1) or "one device"
    return f"{told}, {layout.schedule}, recomputation {layout.recompute}, {layout.tokens / 1e6:.1f}M tokens a step"
