"""What a user decides about a layout beforehand, and what no layout of a model can have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd, prod
from typing import Literal

from homegrown.config.errors import ConfigError
from homegrown.plan.facts import Attention, Shape
from homegrown.plan.layout import Recompute, Schedule

SIZES = ("tp", "cp", "pp", "dp", "ep", "etp", "embp", "parts", "micro_batch")
"""Fields of `Pins` (and of `Layout`) that are sizes."""


@dataclass(frozen=True, kw_only=True)
class Pins:
    """What is decided beforehand. Sizes of 0 and "any" are left to the search; see `Layout` for what they mean."""

    tp: int = 0
    cp: int = 0
    pp: int = 0
    dp: int = 0
    ep: int = 0
    etp: int = 0
    embp: int = 0
    parts: int = 0
    micro_batch: int = 0
    schedule: Schedule | Literal["any"] = "any"
    recompute: Recompute | Literal["any"] = "any"
    precision: Literal["bf16", "fp8", "fp4", "int8", "fp32"] = "bf16"
    optimizer: Literal["adamw", "muon"] = "muon"
    zero: Literal[0, 1] = 1
    offload: bool = False
    balanced: bool = False
    overlap: bool = True
    comm_share: float = 0.0

    def __post_init__(self) -> None:
        for name in SIZES:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at least 1, or 0 to leave it to the search")
        if not 0 <= self.comm_share < 1:
            raise ConfigError(f"comm_share = {self.comm_share:g}: must be a share of the device, from 0 to less than 1")
        if self.parts > 1 and self.schedule not in ("any", "interleaved"):
            raise ConfigError(f"parts = {self.parts}: only the interleaved schedule has several, not {self.schedule!r}")
        if self.schedule == "interleaved" and self.parts == 1:
            raise ConfigError("parts = 1: the interleaved schedule needs at least 2 pipeline parts a device")
        if self.schedule not in ("any", "1f1b") and self.pp == 1:
            raise ConfigError(f"schedule = {self.schedule!r}: needs a pipeline, pp of at least 2")
        if self.schedule == "dual" and self.pp % 2:
            raise ConfigError(
                f"pp = {self.pp}: the dual schedule feeds the pipeline from both ends, so it must be even"
            )


@dataclass(frozen=True)
class Limits:
    """What the sizes of a model and its sequence allow. Each method says what is against a size, or nothing."""

    shape: Shape
    sequence: int

    @property
    def attentions(self) -> list[Attention]:
        """One of each group of layers."""
        return [group.attention for group in self.shape.layers]

    @property
    def heads(self) -> int:
        """Greatest common divisor of the numbers of attention heads."""
        return gcd(*(attention.heads for attention in self.attentions))

    @property
    def routed(self) -> int:
        """Greatest common divisor of the numbers of routed experts; 0 without any."""
        return gcd(*(group.experts.routed for group in self.shape.layers if group.experts))

    @property
    def expert_widths(self) -> list[int]:
        """Of each group of layers that has experts."""
        return [group.experts.width for group in self.shape.layers if group.experts]

    def against_tp(self, tp: int) -> str:
        """Heads, key heads, feed-forward widths and (between blocks) the sequence are cut."""
        name = self.shape.name
        for attention in self.attentions:
            keys = attention.kv_heads
            if attention.heads % tp:
                return f"must divide the {attention.heads} attention heads of {name}"
            if attention.kind == "gqa" and keys % tp and tp % keys:
                return f"must divide the {keys} key heads of {name}, or be a multiple of them"
        for width in (width for group in self.shape.layers for width in group.dense):
            if width % tp:
                return f"must divide the feed-forward width {width} of {name}"
        return "" if self.sequence % tp == 0 else f"must divide the sequence of {self.sequence} tokens"

    def against_cp(self, cp: int, tp: int) -> str:
        """A rank takes a slice from the front and one from the back, so that causal attention costs all alike."""
        slices = cp * tp * (2 if cp > 1 else 1)
        if self.sequence % slices:
            return f"2 * cp * tp = {slices} must divide the sequence of {self.sequence} tokens"
        return ""

    def against_pipeline(self, pp: int, parts: int) -> str:
        """Each pipeline part holds a layer at least."""
        if pp * parts > self.shape.depth:
            return f"{pp * parts} pipeline parts are more than the {self.shape.depth} layers of {self.shape.name}"
        return ""

    def against_ep(self, ep: int) -> str:
        """Each rank holds equally many experts."""
        if self.routed % ep or (not self.routed and ep > 1):
            return f"must divide the {self.routed} routed experts of {self.shape.name}"
        return ""

    def against_etp(self, etp: int) -> str:
        """An expert's matrices are cut along their width."""
        if etp > 1 and not self.routed:
            return f"{self.shape.name} has no experts to cut"
        bad = [width for width in self.expert_widths if width % etp]
        return f"must divide the experts' width of {bad[0]}" if bad else ""

    def check(self, pins: Pins) -> None:
        """Raise `ConfigError` where a pinned size is one that no layout of the model can have."""
        found = {
            f"tp = {pins.tp}": self.against_tp(pins.tp or 1),
            f"cp = {pins.cp}": self.against_cp(pins.cp or 1, pins.tp or 1),
            f"pp = {pins.pp}": self.against_pipeline(pins.pp, max(pins.parts, 1)),
            f"parts = {pins.parts}": self.against_pipeline(max(pins.pp, 1), pins.parts),
            f"ep = {pins.ep}": self.against_ep(pins.ep or 1),
            f"etp = {pins.etp}": self.against_etp(pins.etp or 1),
            f"embp = {pins.embp}": f"{self.shape.name} has no n-gram tables to spread"
            if pins.embp > 1 and not self.shape.ngram_tables
            else "",
        }
        for what, why in found.items():
            if why:
                raise ConfigError(f"{what}: {why}")


def check_devices(pins: Pins, devices: int) -> None:
    """Raise `ConfigError` where pinned sizes need more devices than there are."""
    named = {name: getattr(pins, name) for name in ("tp", "cp", "pp", "dp") if getattr(pins, name)}
    if prod(named.values()) > devices:
        raise ConfigError(f"{_product(named)} devices: there are only {devices}")


def check_batch(pins: Pins, batch: int) -> None:
    """Raise `ConfigError` where pinned sizes need more sequences a step than there are."""
    named = {name: getattr(pins, name) for name in ("dp", "micro_batch") if getattr(pins, name)}
    if prod(named.values()) > batch:
        raise ConfigError(f"{_product(named)} sequences a step: the batch has only {batch}")


def divisors(number: int) -> list[int]:
    """All of them, in order."""
    small = [low for low in range(1, int(number**0.5) + 1) if number % low == 0]
    return small + [number // low for low in reversed(small) if low * low != number]


def _product(named: dict[str, int]) -> str:
    factors: Iterable[str] = (f"{name} {size}" for name, size in named.items())
    return f"{' * '.join(factors)} = {prod(named.values())}"
