"""Dollars of tokens and of fleets."""

from __future__ import annotations

from collections.abc import Mapping

from homegrown.config.errors import ConfigError
from homegrown.plan.facts import Chip
from homegrown.plan.quantity import World

HOUR = 3600.0
"""Seconds."""
MILLION = 1e6


def per_million(usd_hour: float, tokens_per_s: float) -> float:
    """Dollars of a million tokens of a device that costs so much an hour and makes so many a second."""
    return usd_hour / HOUR / tokens_per_s * MILLION


def hit_cost(usd_hour: float, token_bytes: float, host_bandwidth: float) -> float:
    """Dollars of a million tokens that are found: a device's time to fetch their keys, if nothing hides it."""
    return usd_hour / HOUR * token_bytes / host_bandwidth * MILLION


def fleet_cost(devices: float, usd_hour: float, hours: float = 24.0) -> float:
    """Dollars of so many devices for so many hours."""
    return devices * usd_hour * hours


def revenue(tokens: Mapping[str, float], usd_per_million: Mapping[str, float]) -> float:
    """Dollars for tokens by kind at list prices.

    Raises:
        ConfigError: a kind has no price.
    """
    missing = sorted(set(tokens) - set(usd_per_million))
    if missing:
        raise ConfigError(f"prices: no price for {', '.join(missing)} tokens; each kind needs one, dollars per million")
    return sum(number / MILLION * usd_per_million[kind] for kind, number in tokens.items())


def margin(income: float, cost: float) -> float:
    """Profit over cost: 5.45 is 545 %."""
    return income / cost - 1


def device_price(chip: Chip, usd_hour: float, world: World) -> float:
    """Dollars of a device-hour: what the user says, else the chip's rental; 0 if neither is known."""
    if usd_hour:
        return usd_hour
    return 0.0 if chip.rental is None else world.of(f"chip.{chip.name}.rental", chip.rental)
