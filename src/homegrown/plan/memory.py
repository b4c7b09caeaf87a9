"""Bytes on the fullest device, by what they are for."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

from homegrown.plan.activations import Activations, activations, in_flight
from homegrown.plan.facts import Experts, Shape
from homegrown.plan.kernel import cut_of
from homegrown.plan.layout import Layout
from homegrown.plan.quantity import EXPECTED, Quantity, World
from homegrown.plan.reading import read_constants
from homegrown.plan.results import Memory
from homegrown.plan.routing import imbalance
from homegrown.plan.states import Held, Rules, stages_of, states


@dataclass(frozen=True, kw_only=True)
class Overheads:
    """Constants of the memory model that belong to no machine; sources and intervals are in `data/memory.toml`.

    Attributes:
        reserve: bytes of the driver, libraries' workspaces and compiled programs.
        waste: share of activations that the allocator loses between tensors.
        group: bytes of buffers of a communicator with at least two members.
        peer: bytes of buffers for each partner in an exchange all to all.
        direct: members up to which a group exchanges directly; larger ones do so in two hops, inside groups of so many
            and between these.
        bucket: bytes of gradients and weights under way between data-parallel ranks.
        rules: bytes of a number of a gradient, and of an optimizer's moment.
        skew: standard deviation of experts' popularity within a micro-batch over its mean.
    """

    reserve: float
    waste: float
    group: float
    peer: float
    direct: float = 128.0
    bucket: float = 0.0
    rules: Rules = field(default_factory=Rules)
    skew: float = 0.0

    @classmethod
    def at(cls, world: World = EXPECTED, skew: float = 0.0) -> Overheads:
        """The constants in one world."""
        found = {name: world.of(f"memory.{name}", figure) for name, figure in figures().items()}
        return cls(
            reserve=found["reserve"], waste=found["waste"], group=found["group"], peer=found["peer"],
            direct=found["direct"], bucket=found["bucket"], skew=skew,
        )  # fmt: skip


@lru_cache(maxsize=1)
def figures() -> Mapping[str, Quantity]:
    """The constants with their intervals and sources.

    Raises:
        ConfigError: the data file is not what it should be.
    """
    path = files("homegrown.plan") / "data" / "memory.toml"
    return read_constants(tomllib.loads(path.read_text(encoding="utf-8")), "memory.toml")


@lru_cache(maxsize=1)
def expected() -> Overheads:
    """All at their best guess, experts equally popular."""
    return Overheads.at()


def memory(shape: Shape, layout: Layout, overheads: Overheads | None = None) -> Memory:
    """Bytes on the fullest device of a run.

    Args:
        shape: the model.
        layout: how it is spread.
        overheads: constants; `None` takes all at their best guess, and experts equally popular.

    Raises:
        ConfigError: `layout.layers` does not fit the model.
    """
    return max(stage_memory(shape, layout, overheads).values(), key=lambda memory: memory.total)


def stage_memory(shape: Shape, layout: Layout, overheads: Overheads | None = None) -> dict[int, Memory]:
    """Bytes on a device of each stage that differs from those before it, by the stage's number."""
    known = overheads or expected()
    cut = cut_of(layout)
    everywhere = _Everywhere(
        looked_up=cut.routed * layout.micro_batches * shape.ngram_tables * shape.ngram_width,
        activations=activations(shape, cut),
        fullest=_fullest(shape, layout, known.skew),
        communication=_communication(shape, layout, known),
    )
    stages = stages_of(shape, layout.pp, layout.parts, layout.layers, layout.sequence, layout.schedule)
    return {held.stage: _on_stage(layout, held, everywhere, known) for held in stages}


class _Everywhere(NamedTuple):
    """What is the same on all stages.

    Attributes:
        looked_up: numbers of n-gram rows that a device looks up in a step.
        fullest: tokens of the fullest expert rank over their mean.
        communication: bytes of buffers.
    """

    looked_up: float
    activations: tuple[Activations, ...]
    fullest: float
    communication: float


def _on_stage(layout: Layout, held: Held, everywhere: _Everywhere, overheads: Overheads) -> Memory:
    owned = states(held, layout, overheads.rules, everywhere.looked_up)
    first, *layers, end, logits = everywhere.activations
    flight = in_flight(layout, held.stage)
    copies = 2 if layout.schedule == "dual" and layout.pp > 1 else 1
    # DualPipe's micro-batches are of one stage's layers, and a device holds two stages'.
    kept = [count * layer.kept / copies for count, layer in zip(held.layers, layers, strict=True)]
    routed = [count * layer.routed / copies for count, layer in zip(held.layers, layers, strict=True)]
    present = [layer for count, layer in zip(held.layers, layers, strict=True) if count]
    ends = held.first * min(flight, layout.pp) * first.kept + held.last * end.kept
    activation = flight * sum(kept)
    again = max((layer.again + 2 * layer.widest for layer in present), default=0.0)
    if held.last:
        again = max(again, end.again + 2 * end.widest, logits.widest)
    optimizer = owned.layers.optimizer + owned.experts.optimizer + owned.ends.optimizer + owned.tables.optimizer
    here = 0.0 if layout.offload else 1.0
    parts = {
        "weights": owned.layers.weights,
        "gradients": owned.layers.gradients,
        "optimizer": owned.layers.optimizer * here,
        "expert weights": owned.experts.weights,
        "expert gradients": owned.experts.gradients,
        "expert optimizer": owned.experts.optimizer * here,
        "embedding and head": owned.ends.weights + owned.ends.gradients + owned.ends.optimizer * here,
        "n-gram tables": owned.tables.weights + owned.tables.gradients + owned.tables.optimizer * here,
        "activations": activation,
        "ends' activations": ends + held.last * logits.kept,
        "backward": again,
        "experts' slack": (everywhere.fullest - 1.0) * flight * sum(routed),
        "communication": everywhere.communication,
        "reserve": overheads.reserve + overheads.waste * (activation + ends),
    }
    return Memory(parts={name: size for name, size in parts.items() if size}, host=(1.0 - here) * optimizer)


def _fullest(shape: Shape, layout: Layout, skew: float) -> float:
    """Tokens of the fullest expert rank over their mean."""
    if layout.balanced or layout.ep == 1:
        return 1.0
    tokens = layout.micro_batch * layout.sequence / (layout.cp * layout.tp) * layout.ep
    return max((imbalance(experts, layout.ep, tokens, skew) for experts in _all_experts(shape)), default=1.0)


def _all_experts(shape: Shape) -> list[Experts]:
    return [group.experts for group in shape.layers if group.experts is not None]


def _communication(shape: Shape, layout: Layout, overheads: Overheads) -> float:
    """Buffers of communicators, one for each dimension that has several members; of partners in exchanges all to all;
    of gradients and weights under way."""
    replicas = layout.dp * layout.cp
    sizes = (layout.tp, layout.cp, layout.pp, replicas, layout.ep, layout.embp if shape.ngram_tables else 1)
    groups = sum(size > 1 for size in sizes)
    if layout.ep > 1 and replicas * layout.tp > layout.ep * layout.etp:
        groups += 1  # those who hold the same experts
    exchanging = sum(_partners(size, overheads.direct) for size in sizes[4:])
    return overheads.group * groups + overheads.peer * exchanging + overheads.bucket * (replicas > 1)


def _partners(members: int, direct: float) -> float:
    return members - 1 if members <= direct else direct - 1 + members / direct - 1
