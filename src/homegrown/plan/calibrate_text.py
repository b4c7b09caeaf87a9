"""A calibration and a forecast in words and as plain values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from homegrown.plan.calibrate import Calibration, Forecast
from homegrown.plan.measured import Kind
from homegrown.plan.quantity import Interval
from homegrown.report.numbers import count, duration, percent, quantity


def lines(forecast: Forecast) -> Iterator[str]:
    """What the run said about its machine, and what that makes of the next one."""
    yield from measured_lines(forecast.calibration)
    yield ""
    config, figures = forecast.config, forecast.figures
    yield (
        f"predicted: {count(config.steps)} steps of {count(config.data.global_batch)} x {count(config.data.seq_len)} "
        "tokens on this machine (80 % intervals)"
    )
    for kind, (share, found) in forecast.steps.items():
        yield f"  {name(kind)}, {percent(share)} of the steps: {_seconds(found)}"
    yield f"  step, on average: {_seconds(figures['step_s'])}"
    yield f"  tokens/s: {_between(figures['tokens_per_s'])}"
    whole = figures["total_s"]
    yield f"  all steps: {duration(whole.value)} ({duration(whole.low)} to {duration(whole.high)})"
    if "memory" in figures:
        yield f"  memory of the process: {_between(figures['memory'], 'B')}"
    if "joules" in figures:
        yield f"  energy: {_between(figures['joules'], 'J')} ({forecast.calibration.run.meter})"
    else:
        yield "  energy: not metered on this machine, so not predicted"


def measured_lines(calibration: Calibration) -> Iterator[str]:
    """What the run said."""
    run = calibration.run
    yield f"measured: {run.path} on {run.device}, {run.dtype}"
    for kind, spread in run.kinds.items():
        yield (
            f"  {name(kind)}: {quantity(spread.median, 's')} (four in five between {quantity(spread.low, 's')} and "
            f"{quantity(spread.high, 's')}; {count(spread.steps)} steps)"
        )
    peak = max(run.peak.values())
    for draft in calibration.steps:
        achieved = calibration.achieved(draft)
        yield (
            f"  achieved {'with' if draft else 'without'} the draft head: {quantity(achieved, 'FLOP/s')} by the "
            f"planner's count, {percent(achieved / peak)} of the {quantity(peak, 'FLOP/s')} that large products reach "
            f"here; {quantity(calibration.overhead(draft), 's')} a step go with its kernels' number"
        )
    yield f"  scoring, samples, checkpoints and disturbances add {percent(run.around)}"


def record(forecast: Forecast) -> dict[str, Any]:
    """The same for programs: seconds, bytes, joules, shares."""
    run = forecast.calibration.run
    return {
        "measured": {
            "run": str(run.path),
            "device": run.device,
            "dtype": run.dtype,
            "steps": {name(kind): vars(spread) for kind, spread in run.kinds.items()},
            "around": run.around,
            "memory": run.memory,
            "watts": run.watts,
            "meter": run.meter,
        },
        "predicted": {
            "steps": {name(kind): {"share": share, **vars(found)} for kind, (share, found) in forecast.steps.items()},
            **{figure: vars(found) for figure, found in forecast.figures.items()},
        },
    }


def name(kind: Kind) -> str:
    """What a step of this kind trains beside the model."""
    trained = [part for part, on in (("draft head", kind.draft), ("indexer", kind.index)) if on]
    return f"step with {' and '.join(trained)}" if trained else "plain step"


def _seconds(found: Interval) -> str:
    return f"{quantity(found.value, 's')} ({quantity(found.low, 's')} to {quantity(found.high, 's')})"


def _between(found: Interval, unit: str = "") -> str:
    return f"{quantity(found.value, unit)} ({quantity(found.low, unit)} to {quantity(found.high, unit)})"
