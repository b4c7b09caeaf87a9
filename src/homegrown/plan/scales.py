"""The same run on fewer and on more devices: what days against devices are drawn from."""

from __future__ import annotations

from collections.abc import Callable

from homegrown.config.errors import ConfigError
from homegrown.plan.results import Plan, Scale

FACTORS = (0.125, 0.25, 0.5, 2.0)
"""Numbers of devices that are planned, over the plan's own."""


def scales_of(plan: Plan, again: Callable[[int], Plan], largest: int = 0) -> tuple[Scale, ...]:
    """What the run comes to on other numbers of devices, and on its own.

    Args:
        plan: the plan.
        again: plans the run on so many devices.
        largest: devices of the largest cluster there is; 0, any.

    Returns:
        Numbers of devices on which no layout fits are left out.
    """
    found = [Scale(devices=plan.devices, figures=plan.totals)]
    for factor in FACTORS:
        devices = round(plan.devices * factor)
        if devices < 1 or devices == plan.devices or (largest and devices > largest):
            continue
        try:
            found.append(Scale(devices=devices, figures=again(devices).totals))
        except ConfigError:
            continue  # too few devices for the model, or more than its batch can feed
    return tuple(sorted(found, key=lambda scale: scale.devices))
