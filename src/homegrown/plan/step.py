"""Seconds of one optimizer step of a layout on a machine.

The slowest stage works through all its micro-batches; around that come what the pipeline waits (`schedule`), traffic of
gradients and weights that the passes do not hide, the update, and waiting for the slowest device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from homegrown.plan.block import BlockTime, Traffic, assemble, fullest_rank
from homegrown.plan.constants import Constants
from homegrown.plan.facts import Machine, Shape
from homegrown.plan.kernel import Cut, cut_of
from homegrown.plan.kernels import part_kernels
from homegrown.plan.layout import Layout
from homegrown.plan.network import Group, all_gather, send
from homegrown.plan.parts import Part, all_parts
from homegrown.plan.results import StepTime
from homegrown.plan.roofline import Roofline
from homegrown.plan.routing import largest_of
from homegrown.plan.schedule import bubble, check_schedule
from homegrown.plan.tail import Tail, tail_of
from homegrown.plan.work import flops

MODELS = 256
"""Step models that are kept: of as many pairs of a shape and a world."""


def step_time(shape: Shape, layout: Layout, machine: Machine, constants: Constants) -> StepTime:
    """Seconds of one step, split.

    What does not depend on the layout is kept for the same three objects, by their identity: a search should not make
    them anew for each layout.

    Raises:
        ConfigError: the layout does not fit the model, its schedule cannot be, or the chip lacks its precision.
    """
    key = (id(shape), id(machine), id(constants))
    model = _models.get(key)
    if model is None:
        if len(_models) >= MODELS:
            _models.pop(next(iter(_models)))
        model = _models[key] = StepModel(shape, machine, constants)
    return model.step_time(layout)


_models: dict[tuple[int, int, int], StepModel] = {}
# A model keeps its three objects alive, so that nothing else gets their identity.


class Composition(NamedTuple):
    """What stages alike do for a micro-batch: how many layers of each kind and how many of both ends."""

    layers: tuple[float, ...]
    first: float
    last: float


@lru_cache(maxsize=8192)
def _compositions(
    shape: Shape, pp: int, parts: int, layers: tuple[int, ...], sequence: int, mirrored: bool
) -> tuple[tuple[Composition, ...], tuple[int, ...]]:
    """Kinds of stages, and for each stage which kind it is. Mirrored (DualPipe), half of a device's micro-batches go
    through its own stage and half through that of the device opposite."""
    every = all_parts(shape, pp, parts, layers, sequence)
    kinds: dict[Composition, int] = {}
    stages = []
    for stage in range(pp):
        own = every[stage::pp] + (every[pp - 1 - stage :: pp] if mirrored else ())
        weight = 0.5 if mirrored else 1.0
        counts = tuple(weight * sum(part.layers[kind] for part in own) for kind in range(len(shape.layers)))
        kind = Composition(counts, weight * sum(part.first for part in own), weight * sum(part.last for part in own))
        stages.append(kinds.setdefault(kind, len(kinds)))
    return tuple(kinds), tuple(stages)


class _Blocks(NamedTuple):
    """Times of the embedding, a layer of each kind, and the end."""

    first: BlockTime
    layers: tuple[BlockTime, ...]
    last: BlockTime

    def of(self, kind: Composition) -> list[tuple[float, BlockTime]]:
        """Blocks of a stage and how often it has each."""
        found = [(count, block) for count, block in zip(kind.layers, self.layers, strict=True) if count]
        if kind.first:
            found.append((kind.first, self.first))
        if kind.last:
            found.append((kind.last, self.last))
        return found


@dataclass(frozen=True)
class StageTime:
    """Seconds of a stage for one micro-batch: passes with all that shows; gradients of weights, part of the backward
    one; computation in both that traffic of gradients and weights hides behind."""

    forward: float
    backward: float
    weights: float
    cover_forward: float
    cover_backward: float

    @property
    def both(self) -> float:
        """Both passes."""
        return self.forward + self.backward


class StepModel:
    """Step times of one model on one machine in one world."""

    def __init__(self, shape: Shape, machine: Machine, constants: Constants) -> None:
        self.shape, self.machine, self.constants = shape, machine, constants
        self._roofline = Roofline(machine, constants)
        self._blocks: dict[tuple[object, ...], _Blocks] = {}
        self._whole = Part((1,) * len(shape.layers), first=True, last=True)
        self._tails: dict[tuple[object, ...], list[tuple[int, Tail]]] = {}
        self._flops: dict[int, float] = {}

    def step_time(self, layout: Layout) -> StepTime:
        """Seconds of one step.

        Raises:
            ConfigError: see `step_time`.
        """
        check_schedule(layout)
        blocks = self.blocks(layout)
        kinds, stages = self._stages(layout)
        shown, hidden = self._between_stages(layout, blocks.layers)
        times = [self._stage(blocks.of(kind), shown) for kind in kinds]
        slowest = max(range(len(kinds)), key=lambda kind: times[kind].both)
        count = layout.micro_batches
        every = [times[kind] for kind in stages]
        waiting = bubble(
            layout.schedule, layout.parts, count, [t.forward for t in every], [t.backward for t in every],
            [t.weights for t in every],
        )  # fmt: skip
        tail = self._tail(layout, every, stages)
        parts = _Parts()
        for number, block in blocks.of(kinds[slowest]):
            parts.add(number * count, block)
        parts.exposed["pp"] = count * shown
        parts.hidden["pp"] = count * hidden
        parts.exposed["dp"] = tail.exposed
        parts.hidden["dp"] = tail.hidden
        compute = sum(parts.compute.values()) + parts.imbalance + waiting
        late = self.constants.spread * largest_of(layout.devices) if layout.devices > 1 else 0.0
        model = self._model_flops(layout.sequence) * layout.tokens
        return StepTime(
            compute=parts.compute,
            exposed={name: seconds for name, seconds in parts.exposed.items() if seconds},
            hidden={name: seconds for name, seconds in parts.hidden.items() if seconds},
            bubble=waiting,
            optimizer=tail.update + self.constants.between,
            imbalance=parts.imbalance,
            straggler=late * compute,
            tokens=layout.tokens,
            flops=model,
            hardware_flops=model + self._again(layout, blocks, kinds, stages),
        )

    def stage_times(self, layout: Layout) -> list[StageTime]:
        """Seconds of every stage for one micro-batch, in order: what a drawing of the pipeline needs.

        Raises:
            ConfigError: see `step_time`.
        """
        blocks = self.blocks(layout)
        kinds, stages = self._stages(layout)
        shown, _ = self._between_stages(layout, blocks.layers)
        return [self._stage(blocks.of(kinds[kind]), shown) for kind in stages]

    def _stages(self, layout: Layout) -> tuple[tuple[Composition, ...], tuple[int, ...]]:
        mirrored = layout.schedule == "dual" and layout.pp > 1
        return _compositions(self.shape, layout.pp, layout.parts, layout.layers, layout.sequence, mirrored)

    def blocks(self, layout: Layout) -> _Blocks:
        """Times of the model's blocks, kept for all layouts that cut them alike."""
        cut = cut_of(layout)
        key = (
            cut, layout.embp, layout.overlap, layout.ep_overlap, layout.tp_overlap, layout.comm_share, layout.dispatch,
            layout.balanced, layout.micro_batches > 1,
        )  # fmt: skip
        known = self._blocks.get(key)
        if known is None:
            known = self._blocks[key] = self._assembled(layout, cut)
        return known

    def _assembled(self, layout: Layout, cut: Cut) -> _Blocks:
        kernels = [block for _, block in part_kernels(self.shape, layout, self._whole)]
        traffic = Traffic(self.shape, layout, cut, self.machine.links, self.constants)
        share = traffic.share
        prices = [self._roofline.price(block) for block in kernels]
        layers = []
        for group, price in zip(self.shape.layers, prices[1:-1], strict=True):
            fullest = fullest_rank(group, layout, cut, self.constants.skew)
            layers.append(assemble(price, traffic.layer(group, price, fullest), fullest, share))
        late = fullest_rank(self.shape.draft, layout, cut, self.constants.skew) if self.shape.draft else 1.0
        # Rows are fetched behind what the first stage computes, of which it has about as many layers as others.
        beside = prices[1]
        return _Blocks(
            assemble(prices[0], traffic.embedding(beside), 1.0, share),
            tuple(layers),
            assemble(prices[-1], traffic.end(prices[-1], late), late, share),
        )

    def _between_stages(self, layout: Layout, layers: tuple[BlockTime, ...]) -> tuple[float, float]:
        """Seconds a micro-batch's states and gradients travel between stages: shown, and hidden. A plain 1F1B sends and
        waits; parts of an interleaved one, and DualPipe's pairs, compute something else meanwhile."""
        if layout.pp == 1:
            return 0.0, 0.0
        size = 2.0 * layout.micro_batch * layout.sequence / layout.cp * self.shape.hidden
        moved = send(self.machine.links, layout.tp * layout.cp * layout.dp, size / layout.tp)
        if layout.tp > 1 and not layout.sequence_parallel:
            # Each sends a piece of what all have, and pieces are gathered at once (arXiv 2104.04473 section 4.1).
            moved += all_gather(self.machine.links, Group(layout.tp), size)
        whole = 2.0 * layout.parts * moved
        if layout.schedule == "1f1b" or not layout.overlap:
            return whole, 0.0
        window = layout.parts * min(block.forward + block.backward for block in layers)
        behind = min(whole, window)
        return whole - behind, behind

    def _stage(self, blocks: list[tuple[float, BlockTime]], shown: float) -> StageTime:
        forward = backward = weights = front = back = 0.0
        for number, block in blocks:
            forward += number * block.forward
            backward += number * block.backward
            weights += number * block.weights
            front += number * block.cover_forward
            back += number * block.cover_backward
        return StageTime(forward + shown / 2.0, backward + shown / 2.0, weights, front, back)

    def _tail(self, layout: Layout, times: list[StageTime], stages: tuple[int, ...]) -> Tail:
        """What follows the passes on the stage that is done last. Of stages alike only the first can be that one: a
        stage's last backward pass ends before those of the stages in front of it."""
        key = (
            layout.tp, layout.cp, layout.dp, layout.pp, layout.parts, layout.layers, layout.ep, layout.etp, layout.embp,
            layout.zero, layout.optimizer, layout.offload, layout.schedule, layout.batch, layout.sequence,
            layout.micro_batch, layout.precision,
        )  # fmt: skip
        known = self._tails.get(key)
        if known is None:
            known = self._tails[key] = [
                (stage, tail_of(self.shape, layout, stage, self.machine, self._roofline))
                for stage in sorted({kind: stage for stage, kind in reversed(list(enumerate(stages)))}.values())
            ]
        found, spare, done = [], 0.0, 0
        for stage, tail in known:
            if layout.schedule != "dual":
                spare += sum(time.cover_backward for time in times[done:stage]) / layout.parts
                done = stage
            time = times[stage]
            passes = (time.cover_forward, time.cover_backward) if layout.overlap else (0.0, 0.0)
            found.append(tail.behind(*passes, spare))
        update = max(tail.update for tail in found)
        slowest = max(found, key=lambda tail: tail.exposed)
        return Tail(slowest.gradients, slowest.weights, update, slowest.hidden)

    def _model_flops(self, sequence: int) -> float:
        known = self._flops.get(sequence)
        if known is None:
            known = self._flops[sequence] = 3.0 * flops(self.shape, sequence).total()
        return known

    def _again(self, layout: Layout, blocks: _Blocks, kinds: tuple[Composition, ...], stages: tuple[int, ...]) -> float:
        """Operations of recomputation, of all devices."""
        each = [sum(number * block.again_flops for number, block in blocks.of(kind)) for kind in kinds]
        devices = layout.dp * layout.cp * layout.tp
        return devices * layout.micro_batches * sum(each[kind] for kind in stages)


class _Parts:
    """Sums over the blocks of a stage."""

    def __init__(self) -> None:
        self.compute: dict[str, float] = {}
        self.exposed: dict[str, float] = {}
        self.hidden: dict[str, float] = {}
        self.imbalance = 0.0

    def add(self, times: float, block: BlockTime) -> None:
        for found, more in (
            (self.compute, block.compute), (self.exposed, block.exposed), (self.hidden, block.hidden),
        ):  # fmt: skip
            _add(found, more, times)
        self.imbalance += times * block.imbalance


def _add(found: dict[str, float], more: Mapping[str, float], times: float) -> None:
    for name, seconds in more.items():
        found[name] = found.get(name, 0.0) + times * seconds
