"""What the catalogue, the model's definition and published runs tell about a claim's figures."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources

from homegrown.config import ConfigError, build
from homegrown.plan.audit.claim import Basis
from homegrown.plan.audit.evidence import COUNTING, CUSTOM, Fact
from homegrown.plan.audit.quantities import KINDS
from homegrown.plan.audit.span import Span
from homegrown.plan.audit.wording import figure
from homegrown.plan.catalogue import Catalogue
from homegrown.plan.cost import cost
from homegrown.plan.energy import power_of
from homegrown.plan.facts import Attention, Chip, Cluster, Layers, Shape
from homegrown.plan.quantity import Mark, Quantity, World, intervals
from homegrown.plan.shapes import parameters, preset_shape, preset_shape_names
from homegrown.plan.work import flops

TRAINING = 3.0
"""Forward, and twice that backward (Kaplan et al., arXiv 2001.08361, section 2.1)."""
UNPUBLISHED = 3.0
"""Runs that use little of their machine rarely say so: the least utilisation to expect is the least published one over
this."""
BUSY = 0.9
"""Share of the time in which devices compute, where power is concerned; else they wait for one another."""
SLACK = {"power": Span(0.5, 1.0, 1.5), "price": Span(0.1, 1.0, 10.0)}
"""How far beyond its usual range a figure may be in principle: half the power with idle devices, half as much again at
every limit; prices between electricity alone and a desperate tenant's."""
_WORLDS = 32


@dataclass(frozen=True, kw_only=True)
class Reached:
    """A published utilisation, as its authors count it.

    Attributes:
        utilisation: as text; `share`: as a number.
        experts: it is a mixture of experts.
    """

    title: str
    utilisation: str
    mark: Mark
    source: str
    date: str
    devices: int = 0
    experts: bool = False
    note: str = ""

    @property
    def share(self) -> float:
        """Of the peak, 0 to 1."""
        return figure(self.utilisation, KINDS["utilisation"], f"reached.toml: {self.title}").value


@lru_cache(maxsize=1)
def reached() -> tuple[Reached, ...]:
    """What published runs reached, the most first."""
    tables = tomllib.loads((resources.files("homegrown.plan") / "data/reached.toml").read_text("utf-8"))
    found = [build(Reached, table, f"reached.toml: {name}") for name, table in tables.items()]
    return tuple(sorted(found, key=lambda run: -run.share))


class Known:
    """Facts from a catalogue, remembered: claims ask for the same ones under many readings."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._machines: dict[Basis, Mapping[str, Fact]] = {}
        self._models: dict[tuple[str, Basis], Mapping[str, Fact]] = {}

    def of_model(self, model: str, basis: Basis) -> Mapping[str, Fact]:
        """Parameters, and training FLOPs of a token at the basis' sequence length."""
        if not model:
            return {}
        if (model, basis) not in self._models:
            self._models[model, basis] = _of_shape(self.shape(model), basis)
        return self._models[model, basis]

    def of_machine(self, basis: Basis) -> Mapping[str, Fact]:
        """Peak, limit of utilisation, power, price and devices of a node."""
        if basis not in self._machines:
            chip, cluster = self._chip(basis), self._cluster(basis)
            found = _of_chip(chip, basis) if chip else {}
            self._machines[basis] = {**found, **(_of_cluster(cluster) if cluster else {})}
        return self._machines[basis]

    def rated_power(self, basis: Basis) -> float | None:
        """Watts of the device at full load by its data sheet."""
        chip = self._chip(basis)
        return chip.power.value if chip else None

    def title(self, basis: Basis) -> str:
        """What the device is, and its peak, in words; empty where the claim names none."""
        chip = self._chip(basis)
        if chip is None:
            return ""
        peak = chip.peak[basis.dtype].value / 1e12
        return f"{chip.title}: {peak:,.0f} TFLOP/s dense {basis.dtype} of one {chip.unit}"

    def shape(self, model: str) -> Shape:
        """The definition of a model: a published one's, or that of one of this package.

        Raises:
            ConfigError: there is none of that name.
        """
        return preset_shape(model) if model in preset_shape_names() else self._catalogue.shape(model)

    def _chip(self, basis: Basis) -> Chip | None:
        if basis.chip:
            return self._catalogue.chip(basis.chip)
        cluster = self._cluster(basis)
        return cluster.chip if cluster else None

    def _cluster(self, basis: Basis) -> Cluster | None:
        return self._catalogue.cluster(basis.cluster) if basis.cluster else None


def _of_shape(shape: Shape, basis: Basis) -> dict[str, Fact]:
    """What a definition says: sizes, and work if the length of its sequences is known."""
    counted = parameters(shape)
    sizes = {"total": float(counted.total), "active": counted.active()}
    experts = [layers.experts for layers in shape.layers if layers.experts is not None]
    if any(item.zero for item in experts):
        sizes["active_least"], sizes["active_most"] = counted.active(0.0), counted.active(float(experts[0].topk))
    found = {
        name: Fact.certain(CUSTOM * Span.exactly(number), f"counted from the definition of {shape.title}")
        for name, number in sizes.items()
    }
    if basis.count == "parameters":
        number, says = TRAINING * 2 * sizes["active"], f"six per active parameter of {shape.title}, without attention"
    elif basis.sequence:
        dense = shape if basis.sparse else _dense(shape)
        forward = flops(dense, basis.sequence, basis.attention == "causal")
        number = TRAINING * forward.total(draft=basis.draft, router=basis.router)
        says = f"counted from the definition of {shape.title}, {counting(basis)}"
    else:
        return found
    found["flops_per_token"] = Fact.certain(COUNTING * Span.exactly(number), says)
    return found


def counting(basis: Basis) -> str:
    """How FLOPs are counted, in words."""
    attention = "keys before the query" if basis.attention == "causal" else "all keys of the sequence"
    parts = [f"{basis.sequence:,} tokens a sequence", attention]
    parts += [] if basis.sparse else ["no key selection"]
    parts += ["draft head counted" if basis.draft else "draft head not counted"]
    parts += [] if basis.router else ["routers not counted"]
    return ", ".join(parts)


@lru_cache(maxsize=64)
def _dense(shape: Shape) -> Shape:
    """The same model with attention that sees every key."""
    return replace(shape, layers=tuple(replace(group, attention=_seeing(group)) for group in shape.layers))


def _seeing(group: Layers) -> Attention:
    return replace(group.attention, budget=0, index_heads=0, index_dim=0)


def _of_chip(chip: Chip, basis: Basis) -> dict[str, Fact]:
    if basis.dtype not in chip.peak:
        raise ConfigError(f"basis.dtype = {basis.dtype!r}: {chip.title} has {', '.join(chip.peak)}")
    peak = chip.peak[basis.dtype]
    precision = basis.precision or basis.dtype
    if precision not in chip.peak:
        raise ConfigError(f"basis.precision = {precision!r}: {chip.title} has {', '.join(chip.peak)}")
    share = chip.ceiling.get(precision, chip.ceiling["bf16"])
    limit = min(share.high * chip.peak[precision].value / peak.value, 1.0)
    shares = [run.share for run in reached()]
    usual = Span(min(shares) / UNPUBLISHED, sorted(shares)[len(shares) // 2], max(shares)).within(0.0, limit)
    return {
        "peak": Fact.certain(_declared(peak), f"peak of {chip.title}, dense {basis.dtype}, one {chip.unit}"),
        "utilisation": Fact(usual, Span(0.0, usual.value, limit), f"what large matrix products reach on {chip.title}"),
    }


def _declared(peak: Quantity) -> Span:
    """A peak is what it is declared to be, unless sources declare different ones; how far they can be trusted is
    another matter, and would only blur what utilisation is a share of."""
    marked = Quantity.marked(peak.value, peak.mark)
    told = math.isclose(marked.low, peak.low) and math.isclose(marked.high, peak.high)
    return Span.exactly(peak.value) if told else Span(peak.low, peak.value, peak.high)


def _of_cluster(cluster: Cluster) -> dict[str, Fact]:
    def figures(world: World) -> dict[str, float]:
        watts = power_of(cluster, world).site(BUSY)
        spent = cost(cluster, 1.0, 1.0, watts, world)
        return {"power": watts} | ({"price": spent.dollars} if spent else {})

    found = {}
    for name, span in intervals(figures, _WORLDS).items():
        likely = Span(span.low, span.value, span.high)
        possible = likely * SLACK[name]
        found[name] = Fact(likely, possible, f"{KINDS[name].title}, {cluster.title}")
    found["node"] = Fact.certain(Span.exactly(float(cluster.node)), f"devices of a host, {cluster.title}")
    return found
