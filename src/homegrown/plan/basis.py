"""What utilisation is a share of. It means nothing without that, so that the two always go together."""

from __future__ import annotations

from homegrown.config.errors import ConfigError
from homegrown.plan.facts import Cluster, Machine, Shape
from homegrown.plan.pins import Pins
from homegrown.plan.results import StepTime


def basis_dtype(cluster: Cluster, precision: str) -> str:
    """The dtype whose peak utilisation is a share of: bf16 as in publications, even of runs in narrower ones; the
    precision itself where a chip has no bf16, or it is wider."""
    return "bf16" if "bf16" in cluster.chip.peak and precision != "fp32" else precision


def check_precision(cluster: Cluster, precision: str) -> None:
    """Refuse a precision that a chip has no peak for.

    Raises:
        ConfigError: the chip lacks it; the message lists those it has.
    """
    if precision not in cluster.chip.peak:
        known = ", ".join(cluster.chip.peak)
        raise ConfigError(f"precision = {precision!r}: {cluster.chip.title} has no peak for it, only for {known}")


def utilisation(time: StepTime, machine: Machine, dtype: str, devices: int) -> float:
    """Model FLOPs of a step over what the peaks of all devices could do in its time."""
    return time.flops / (time.seconds * devices * machine.peak[dtype])


def basis_of(shape: Shape, cluster: Cluster, pins: Pins) -> str:
    """The same in words."""
    chip, dtype = cluster.chip, basis_dtype(cluster, pins.precision)
    said = [f"of {chip.peak[dtype].value / 1e12:,.0f} TFLOP/s, the dense {dtype} peak of {chip.title} (a {chip.unit})"]
    if pins.precision != dtype:
        said.append(f"products in {pins.precision}")
    sparse = any(group.attention.budget for group in shape.layers)
    said.append("attention causal")
    if sparse:
        # Indexers learn on selected keys alone, so that a device computes less than this count says.
        said.append("selected keys only; indexers' scoring of all keys counted for three passes, like all else")
    if shape.draft is not None:
        said.append(f"draft head of {shape.draft_steps} step{'s' * (shape.draft_steps > 1)} counted")
    if any(group.experts for group in shape.layers):
        said.append("routers counted")
    return "; ".join([*said, "recomputation not counted"])
