"""What fits: tokens of a pool's cache, the longest context, the largest batch."""

from __future__ import annotations

from dataclasses import dataclass

from homegrown.config.errors import ConfigError
from homegrown.plan.facts import Machine, Shape
from homegrown.plan.serving.constants import Constants
from homegrown.plan.serving.setup import Pool, Precision
from homegrown.plan.serving.weights import token_bytes, weight_bytes


@dataclass(frozen=True)
class Capacity:
    """Memory of a device of a pool.

    Attributes:
        weights: bytes by component.
        token: bytes of a token's keys. room: bytes for keys.
    """

    weights: dict[str, float]
    token: float
    room: float

    @property
    def tokens(self) -> float:
        """Tokens whose keys a group of devices holds; no request's context can be longer."""
        return max(self.room, 0.0) / self.token

    @property
    def fits(self) -> bool:
        """Whether weights leave room for any keys."""
        return self.room > 0


def capacity(
    machine: Machine, constants: Constants, shape: Shape, pool: Pool, precision: Precision, drafting: bool = False
) -> Capacity:
    """Memory of a device: a share of what the runtime leaves is for weights and keys."""
    weights = weight_bytes(shape, pool, precision, drafting)
    usable = (machine.memory - constants.runtime_reserve) * pool.memory_share
    return Capacity(weights, token_bytes(shape, pool, precision, drafting), usable - sum(weights.values()))


def require_room(found: Capacity, machine: Machine, pool: Pool, name: str) -> None:
    """Refuse a pool whose weights do not fit.

    Raises:
        ConfigError: they do not.
    """
    if not found.fits:
        raise ConfigError(
            f"{name}.devices = {pool.devices}: weights take {sum(found.weights.values()) / 1e9:.1f} GB of a device's "
            f"{machine.memory / 1e9:.1f} GB, of which {pool.memory_share:.0%} may be used; more devices are needed"
        )
